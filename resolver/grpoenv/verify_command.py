"""The verb ``verify``: look at the environment, report it as asked, and mend it if that is wanted."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpoenv._data import DataPaths
from grpoenv.checks import Finding, Use
from grpoenv.errors import OperationError
from grpoenv.fix import Fixes, plan_fixes, run_fixes
from grpoenv.machine import probe_machine
from grpoenv.matrix import Matrix
from grpoenv.probe import Probe
from grpoenv.report_verdict import verdict_text
from grpoenv.target import existing_python
from grpoenv.verify import Verdict, verify

__all__ = ["FORMATS", "VerifyOptions", "compare_ranks", "verdict_report", "verify_command"]

FORMATS = ("text", "json", "github", "sarif", "junit")
_DISTRIBUTED_S = 60.0


@dataclass(frozen=True)
class VerifyOptions:
    """What ``grpoenv verify`` was asked for."""

    python: Path | None = None
    scripts: tuple[Path, ...] = ()
    deep: bool = False
    notes: bool = False
    format: str = "text"
    html: Path | None = None
    fix: bool = False
    yes: bool = False


def verify_command(
    options: VerifyOptions, matrix: Matrix, data: DataPaths, program: str
) -> tuple[Verdict, dict[str, Any]]:
    """Verify, mend what is to be mended, write the HTML report; return the last verdict.

    The dict holds what else goes into the JSON object. Raises InputError if a script cannot be
    read, OperationError if a remedy or the HTML report fails.
    """
    use = Use(Path.cwd(), dict(os.environ), options.scripts, deep=options.deep)
    probe, verdict = _look(options, matrix, data, program, use)
    extra: dict[str, Any] = {}
    if options.fix and verdict.problems:
        fixes = plan_fixes(verdict, program)
        print(_fixes_text(fixes), file=sys.stderr)
        if fixes.commands and _agreed(options, verdict):
            run_fixes(fixes, program)
            extra["fixed"] = [shlex.join(command) for command in fixes.commands]
            probe, verdict = _look(options, matrix, data, program, use)
    if options.html:
        _write_html(options.html, verdict, probe)
    return verdict, extra


def _look(
    options: VerifyOptions, matrix: Matrix, data: DataPaths, program: str, use: Use
) -> tuple[Probe, Verdict]:
    probe = probe_machine(existing_python(options.python))
    return probe, verify(probe, matrix, data, program=program, use=use)


def _fixes_text(fixes: Fixes) -> str:
    lines = [f"to run: {shlex.join(command)}" for command in fixes.commands]
    lines += [f"to do by hand: {remedy}" for remedy in fixes.by_hand]
    return "\n".join(lines)


def _agreed(options: VerifyOptions, verdict: Verdict) -> bool:
    """Tell whether the commands may run: by ``--yes``, or by an answer at the terminal."""
    if options.yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print("nothing was run: no terminal to ask at; --yes runs it", file=sys.stderr)
        return False
    print(verdict_text(verdict), file=sys.stderr)
    print("run it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write_html(path: Path, verdict: Verdict, probe: Probe) -> None:
    from grpoenv.report_html import html_text

    try:
        path.write_text(html_text(verdict, probe, Path.home()), encoding="utf-8")
    except OSError as error:
        raise OperationError(f"{path} cannot be written: {error.strerror}") from error


def verdict_report(verdict: Verdict, options: VerifyOptions) -> str:
    """Return the verdict in ``options.format``, any but JSON, which the command line prints."""
    if options.format == "github":
        from grpoenv.report_github import github_text

        return github_text(verdict)
    if options.format == "sarif":
        from grpoenv.report_sarif import sarif_text

        return sarif_text(verdict)
    if options.format == "junit":
        from grpoenv.report_junit import junit_text

        return junit_text(verdict)
    return verdict_text(verdict, notes=options.notes)


def compare_ranks(options: VerifyOptions) -> tuple[Verdict, int]:
    """Compare the environments of all ranks that torchrun started; return the rank, too."""
    from grpoenv.distributed import describe, exchange, read_rank

    rank = read_rank(os.environ)
    probe = probe_machine(existing_python(options.python))
    findings: list[Finding] = exchange(rank, describe(probe), timeout_s=_DISTRIBUTED_S)
    return Verdict(tuple(findings), "", {"distributed": 0.0}), rank.rank
