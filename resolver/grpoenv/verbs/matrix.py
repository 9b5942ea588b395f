"""The verbs of ``matrix``: the maintainers' side, and a look at the stacks and the breaks."""

from __future__ import annotations

import argparse

from grpoenv.verbs import Verbs, add_verb, matrix_data, print_json, read_matrix

__all__ = ["add_matrix"]


def add_matrix(verbs: Verbs) -> None:
    """Add ``matrix`` and its own verbs."""
    parser = verbs.add_parser("matrix", help="the tested stacks and known breaks")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    add_verb(verbs, "show", _show, "list the stacks and the breaks", "matrix")
    add_verb(verbs, "lint", _lint, "check the matrix and its locks", "matrix")
    lock = add_verb(verbs, "lock", _lock, "resolve stacks with uv, write locks", "matrix")
    lock.add_argument("stacks", nargs="+", metavar="STACK", help="ids of stacks in the matrix")


def _show(options: argparse.Namespace) -> int:
    from grpoenv import report

    matrix, _ = read_matrix(options)
    if options.json:
        print_json(options, 0, **report.matrix_json(matrix))
    else:
        print(report.matrix_text(matrix))
    return 0


def _lint(options: argparse.Namespace) -> int:
    from grpoenv.matrix_lint import lint

    matrix, data = read_matrix(options)
    errors = lint(matrix, data.locks)
    if options.json:
        print_json(options, int(bool(errors)), errors=[str(error) for error in errors])
    else:
        for error in errors:
            print(error)
        print(f"{len(errors)} errors, {len(matrix.stacks)} stacks, {len(matrix.breaks)} breaks")
    return int(bool(errors))


def _lock(options: argparse.Namespace) -> int:
    from grpoenv.matrix_lock import lock_stack

    written = []
    for id_ in options.stacks:
        for path in lock_stack(matrix_data(options), id_):
            written.append(str(path))
            if not options.json:
                print(path)
    if options.json:
        print_json(options, 0, locks=written)
    return 0
