"""The verb ``verify``: tell whether an environment is sound, before training."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpoenv.verbs import Verbs, add_verb, print_json, program_name, read_matrix, verdict_code

__all__ = ["add_verify"]


def add_verify(verbs: Verbs) -> None:
    """Add ``verify``."""
    parser = add_verb(verbs, "verify", _verify, "before training: is this environment sound?")
    parser.add_argument("--python", type=Path, metavar="PATH", help="verify this interpreter's")
    parser.add_argument(
        "scripts", nargs="*", type=Path, metavar="SCRIPT", help="your .py or .ipynb, looked at too"
    )
    parser.add_argument("--notes", action="store_true", help="show what asks for nothing, too")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="hash every file, load every library, train a tiny model: about a minute",
    )
    parser.add_argument(
        "--format", choices=("text", "json", "github", "sarif", "junit"), default="text"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page to attach to a bug")
    parser.add_argument(
        "--fix", action="store_true", help="run the remedies, after showing them and asking"
    )
    parser.add_argument("--yes", action="store_true", help="with --fix, do not ask")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="compare the environments of all ranks: torchrun … -m grpoenv verify --distributed",
    )


def _verify(options: argparse.Namespace) -> int:
    from grpoenv.report_verdict import verdict_json
    from grpoenv.verify_command import VerifyOptions, compare_ranks, verdict_report, verify_command

    options.json = options.json or options.format == "json"
    wanted = VerifyOptions(
        options.python,
        tuple(options.scripts),
        options.deep,
        options.notes,
        options.format,
        options.html,
        options.fix,
        options.yes,
    )
    extra: dict[str, object] = {}
    if options.distributed:
        verdict, rank = compare_ranks(wanted)
        if rank != 0:
            return 0  # rank 0 speaks for all; torchrun would end it if another one failed first
    else:
        verdict, extra = verify_command(wanted, *read_matrix(options), program_name())
    code = verdict_code(verdict)
    if options.json:
        print_json(options, code, verdict=verdict_json(verdict), **extra)
    else:
        print(verdict_report(verdict, wanted))
    return code
