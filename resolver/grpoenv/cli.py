"""The command line: parse, call, report, and turn errors into exit codes.

0 sound · 1 a problem found · 2 wrong usage · 3 could not be determined · 4 an operation failed and
the environment is as it was. The verbs are in ``grpoenv.verbs``.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from grpoenv import __version__
from grpoenv.errors import (
    GrpoenvError,
    InputError,
    NoStackFits,
    OperationError,
    UndeterminedError,
)
from grpoenv.update import BackgroundCheck, start_background_check
from grpoenv.verbs import print_json
from grpoenv.verbs.check import add_check
from grpoenv.verbs.install import add_install
from grpoenv.verbs.matrix import add_matrix
from grpoenv.verbs.probe import add_probe
from grpoenv.verbs.update import add_update
from grpoenv.verbs.verify import add_verify
from grpoenv.visible import visible

__all__ = ["main"]

_EXIT_CODES: dict[type[GrpoenvError], int] = {
    NoStackFits: 1,
    InputError: 2,
    UndeterminedError: 3,
    OperationError: 4,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    check = start_background_check(terminal=sys.stderr.isatty() and options.verb != "update")
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        _show_notice(check)
        return code
    except GrpoenvError as error:
        code = next(code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))
        _report_error(options, error, code)
        return code
    except KeyboardInterrupt:
        print("grpoenv: interrupted; the environment is as it was", file=sys.stderr)
        return 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="grpoenv",
        description="Install, verify and mend environments for GRPO fine-tuning, from a matrix of "
        "stacks that were really tested.",
        epilog="exit codes: 0 sound, 1 a problem found, 2 wrong usage, 3 could not be determined, "
        "4 the operation failed and the environment is as it was",
    )
    parser.add_argument("--version", action="version", version=f"grpoenv {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    add_install(verbs)
    add_verify(verbs)
    add_check(verbs)
    add_probe(verbs)
    add_update(verbs)
    add_matrix(verbs)
    return parser


def _report_error(options: argparse.Namespace, error: GrpoenvError, code: int) -> None:
    if options.json:
        print_json(options, code, error={"message": error.message, "remedy": error.remedy})
        return
    print(f"grpoenv: {visible(error.message)}", file=sys.stderr)
    if error.remedy:
        print(f"what to do: {visible(error.remedy)}", file=sys.stderr)


def _show_notice(check: BackgroundCheck) -> None:
    """Tell what an earlier run found, and give a check that is under way a moment to end."""
    if check.earlier is not None:
        from grpoenv.update_result import notice

        print(notice(check.earlier), file=sys.stderr)
    check.wait()


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt
