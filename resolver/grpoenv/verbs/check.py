"""The verb ``check``: the verdict of ``verify`` on what is not installed yet."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from grpoenv.verbs import Verbs, add_verb, print_json, program_name, read_matrix, verdict_code

__all__ = ["add_check"]


def add_check(verbs: Verbs) -> None:
    """Add ``check``."""
    parser = add_verb(verbs, "check", _check, "before installing: would this work?")
    parser.add_argument(
        "requirements", nargs="*", metavar="REQUIREMENT", help="such as unsloth or 'trl>=1.15'"
    )
    parser.add_argument(
        "-r", "--requirements", action="append", type=Path, default=[], dest="files", metavar="FILE"
    )
    parser.add_argument(
        "--freeze", type=Path, metavar="FILE", help="on top of this image's package list"
    )
    parser.add_argument(
        "--host", choices=("colab", "kaggle"), default="colab", help="what --freeze is an image of"
    )
    parser.add_argument("--no-deps", action="store_true", help="look at what is named, alone")
    parser.add_argument("--exclude-newer", default="", metavar="DATE", help="as of that day")
    parser.add_argument("--python", type=Path, metavar="PATH", help="for this interpreter")
    parser.add_argument("--python-version", default="", metavar="3.12", help="for another Python")
    parser.add_argument("--platform", default="", metavar="x86_64-manylinux_2_28")
    parser.add_argument("--gpu", default="", metavar="T4|7.5|none", help="for this GPU")
    parser.add_argument("--driver", default="", metavar="VERSION", help="for this NVIDIA driver")
    parser.add_argument(
        "--script",
        action="append",
        type=Path,
        default=[],
        dest="scripts",
        metavar="FILE",
        help="look at this script or notebook, too",
    )
    parser.add_argument("--notes", action="store_true", help="show what asks for nothing, too")


def _check(options: argparse.Namespace) -> int:
    from grpoenv import report_checked, report_verdict
    from grpoenv.asked_target import asked_probe, parse_gpu
    from grpoenv.check import check, parse_wanted
    from grpoenv.checks import Use
    from grpoenv.target import existing_python

    matrix, data = read_matrix(options)
    wanted = parse_wanted(
        options.requirements,
        options.files,
        image=options.freeze is not None,
        dependencies=not options.no_deps,
        exclude_newer=options.exclude_newer,
    )
    probe = asked_probe(
        python=None if options.freeze else existing_python(options.python),
        freeze=options.freeze,
        host=options.host,
        python_version=options.python_version,
        platform=options.platform,
        gpu=parse_gpu(options.gpu, options.driver),
    )
    use = Use(variables=dict(os.environ), scripts=tuple(options.scripts))
    checked = check(wanted, probe, matrix, data, program=program_name(), use=use)
    code = verdict_code(checked.verdict)
    if options.json:
        print_json(
            options,
            code,
            **report_checked.checked_json(checked, probe),
            verdict=report_verdict.verdict_json(checked.verdict),
        )
    else:
        print(report_checked.checked_text(checked, probe))
        print(report_verdict.verdict_text(checked.verdict, notes=options.notes))
    return code
