"""The verbs of ``matrix``: the maintainers' side, and a look at the stacks and the breaks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grpoenv.errors import OperationError
from grpoenv.verbs import Verbs, add_verb, matrix_data, print_json, read_matrix
from grpoenv.verbs.matrix_scan import add_matrix_scan
from grpoenv.verbs.matrix_test import add_matrix_test

if TYPE_CHECKING:
    from grpoenv.matrix_selection import Selection

__all__ = ["add_matrix"]


def add_matrix(verbs: Verbs) -> None:
    """Add ``matrix`` and its own verbs."""
    parser = verbs.add_parser("matrix", help="the tested stacks and known breaks")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_show(verbs)
    page = add_verb(
        verbs, "html", _html, "write the matrix as one page to look around in", "matrix"
    )
    page.add_argument(
        "-o", "--output", type=Path, default=Path("grpoenv-matrix.html"), metavar="FILE"
    )
    page.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="use other verdicts on pairs (benchmarks/pairs.py)",
    )
    add_verb(verbs, "lint", _lint, "check the matrix and its locks", "matrix")
    add = add_verb(verbs, "add", _add, "make a row for a release, and lock it", "matrix")
    add.add_argument("pin", metavar="PACKAGE==VERSION")
    add.add_argument("--python", default="3.11", metavar="3.12", help="lock it for this Python")
    lock = add_verb(verbs, "lock", _lock, "resolve stacks with uv, write locks", "matrix")
    lock.add_argument("stacks", nargs="+", metavar="STACK", help="ids of stacks in the matrix")
    lock.add_argument(
        "--workers", type=int, default=2, metavar="N", help="targets side by side (2)"
    )
    lock.add_argument(
        "--all-targets",
        action="store_true",
        help="for every Python and platform that uv finds the stack for",
    )
    add_matrix_scan(verbs)
    add_matrix_test(verbs)


def _add_show(verbs: Verbs) -> None:
    parser = add_verb(verbs, "show", _show, "list the stacks and the breaks", "matrix")
    parser.add_argument("words", nargs="*", metavar="TEXT", help="rows that say all of this")
    parser.add_argument("--runtime", default="", metavar="unsloth|trl")
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="SPEC",
        help="rows with this package, such as trl or 'torch>=2.6'; may be repeated",
    )
    parser.add_argument(
        "--level",
        choices=("resolved", "linked", "imported", "trained", "gpu"),
        default="resolved",
        help="targets with at least this evidence",
    )
    parser.add_argument("--python", default="", metavar="3.12", help="targets of this Python")
    parser.add_argument("--image", default="", metavar="TEXT", help="stacks for such an image")
    parser.add_argument(
        "--sort",
        default="file",
        metavar="KEY",
        help="file, id, date, level, or a package's version",
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")


def _show(options: argparse.Namespace) -> int:
    from grpoenv.matrix_selection import select
    from grpoenv.report_matrix import matrix_json, print_matrix

    matrix = select(read_matrix(options)[0], _selection(options))
    if options.json:
        print_json(options, 0, **matrix_json(matrix))
    else:
        print_matrix(matrix, sys.stdout)
    return 0


def _selection(options: argparse.Namespace) -> Selection:
    from grpoenv.matrix import Level
    from grpoenv.matrix_selection import Selection, parse_packages, parse_sort

    return Selection(
        words=tuple(options.words),
        runtime=options.runtime,
        packages=parse_packages(options.package),
        level=Level[options.level.upper()],
        python=options.python,
        image=options.image,
        sort=parse_sort(options.sort),
        reverse=options.reverse,
    )


def _html(options: argparse.Namespace) -> int:
    from grpoenv._data import pairs_path
    from grpoenv.matrix_page import page_text
    from grpoenv.matrix_page.content import page_content
    from grpoenv.pair_verdicts import read_classification
    from grpoenv.releases import read_releases

    matrix, data = read_matrix(options)
    pairs = read_classification(options.pairs or pairs_path())
    scanned = read_releases(data.releases).rows if data.releases.is_file() else ()
    path: Path = options.output
    try:
        path.write_text(page_text(page_content(matrix, pairs, scanned)), encoding="utf-8")
    except OSError as error:
        raise OperationError(f"{path} cannot be written: {error.strerror}") from error
    if options.json:
        print_json(options, 0, page=str(path))
    else:
        print(path)
    return 0


def _lint(options: argparse.Namespace) -> int:
    from grpoenv.matrix_lint import lint
    from grpoenv.releases import read_releases
    from grpoenv.releases_lint import lint_releases

    matrix, data = read_matrix(options)
    errors = lint(matrix, data.locks)
    if data.releases.is_file():
        errors += lint_releases(read_releases(data.releases), data.releases)
    if options.json:
        print_json(options, int(bool(errors)), errors=[str(error) for error in errors])
    else:
        for error in errors:
            print(error)
        print(f"{len(errors)} errors, {len(matrix.stacks)} stacks, {len(matrix.breaks)} breaks")
    return int(bool(errors))


def _add(options: argparse.Namespace) -> int:
    from grpoenv.matrix_add import add_stack

    id_, locked = add_stack(matrix_data(options), options.pin, options.python)
    for name, error in locked.refused.items():
        raise OperationError(f"{name}: {error.message}", remedy=error.remedy)
    if options.json:
        print_json(options, 0, stack=id_, locks=[str(path) for path in locked.paths])
    else:
        print(id_)
    return 0


def _lock(options: argparse.Namespace) -> int:
    from grpoenv.matrix_lock import lock_stacks

    locked = lock_stacks(
        matrix_data(options),
        options.stacks,
        workers=max(1, options.workers),
        all_targets=options.all_targets,
    )
    code = 4 if locked.refused and not options.all_targets else 0
    paths = [str(path) for path in locked.paths]
    refused = {name: error.message for name, error in locked.refused.items()}
    if options.json:
        print_json(options, code, locks=paths, refused=refused)
        return code
    for line in [*paths, *(f"{name}: {reason}" for name, reason in refused.items())]:
        print(line)
    return code
