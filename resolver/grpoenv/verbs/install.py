"""The verb ``install``: install a tested stack and verify it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from grpoenv._data import DataPaths
from grpoenv.errors import InputError
from grpoenv.verbs import Verbs, add_verb, print_json, program_name, read_matrix, verdict_code

if TYPE_CHECKING:
    from grpoenv.matrix import Matrix
    from grpoenv.resolve import Wishes

__all__ = ["add_install"]


def add_install(verbs: Verbs) -> None:
    """Add ``install``."""
    parser = add_verb(verbs, "install", _install, "install a tested stack and verify it")
    host = parser.add_mutually_exclusive_group()
    for name in ("colab", "kaggle"):
        host.add_argument(
            f"--{name}",
            action="store_const",
            const=name,
            dest="host",
            default="",
            help=f"plan for a {name.capitalize()} runtime: keep its torch, triton and numpy",
        )
    parser.add_argument(
        "--stack", default="", metavar="unsloth|trl|ID", help="a runtime, or one stack by its id"
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="with_packages",
        metavar="PACKAGE",
        help="the stack has to include PACKAGE, such as vllm",
    )
    parser.add_argument(
        "--pin", action="append", default=[], metavar="PACKAGE==VERSION", help="an exact version"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--python", type=Path, metavar="PATH", help="install for this interpreter")
    place.add_argument("--venv", type=Path, metavar="DIR", help="install into DIR, made if need be")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument(
        "--probe", type=Path, metavar="FILE", help="plan for a saved probe (with --dry-run)"
    )


def _install(options: argparse.Namespace) -> int:
    from grpoenv import report, report_verdict
    from grpoenv.install import install
    from grpoenv.progress import ConsoleReporter, SilentReporter
    from grpoenv.target import choose_python, prepared_python

    if options.probe and not options.dry_run:
        raise InputError("--probe plans for another machine", remedy="add --dry-run")
    matrix, data = read_matrix(options)
    wishes = _wishes(options, matrix)
    python, new_venv = choose_python(options.python, options.venv)
    if options.dry_run:
        return _dry_run(options, matrix, data, wishes, None if new_venv else python)
    with ConsoleReporter() as console, prepared_python(python, new_venv) as python:
        reporter = SilentReporter() if options.json else console
        result = install(python, matrix, data, wishes, reporter, program=program_name())
    code = verdict_code(result.verdict)
    if options.json:
        print_json(
            options,
            code,
            plan=report.plan_json(result.plan),
            verdict=report_verdict.verdict_json(result.verdict),
            restart=list(result.restart),
        )
    else:
        print(report_verdict.verdict_text(result.verdict))
        if result.restart:
            print(report.restart_text(result.restart))
    return code


def _dry_run(
    options: argparse.Namespace,
    matrix: Matrix,
    data: DataPaths,
    wishes: Wishes,
    python: Path | None,
) -> int:
    from dataclasses import replace

    from grpoenv import report
    from grpoenv.machine import probe_machine
    from grpoenv.planning import make_plan, plan_environment
    from grpoenv.probe import read_probe

    if options.probe:
        plan = make_plan(read_probe(options.probe), matrix, data, wishes)
    elif python is None:  # the environment is yet to be made
        plan = make_plan(replace(probe_machine(), packages={}), matrix, data, wishes)
    else:
        plan = plan_environment(probe_machine(python), matrix, data, wishes)
    if options.json:
        print_json(options, 0, plan=report.plan_json(plan))
    else:
        print(report.plan_text(plan))
        for rejection in plan.rejected:
            print(f"rejected {rejection.stack}: {rejection.reasons[0]}")
    return 0


def _wishes(options: argparse.Namespace, matrix: Matrix) -> Wishes:
    from packaging.utils import InvalidName, canonicalize_name
    from packaging.version import InvalidVersion, Version

    from grpoenv.matrix import RUNTIMES
    from grpoenv.resolve import Wishes

    known = [*RUNTIMES, *(stack.id for stack in matrix.stacks)]
    if options.stack and options.stack not in known:
        raise InputError(
            f"--stack {options.stack!r} is neither a runtime nor a stack of the matrix",
            remedy=f"take one of {', '.join(known)}",
        )
    pins = {}
    for text in options.pin:
        name, _, version = text.partition("==")
        try:
            pins[canonicalize_name(name, validate=True)] = Version(version)
        except (InvalidName, InvalidVersion) as error:
            raise InputError(f"--pin {text!r} is not of the form PACKAGE==VERSION") from error
    try:
        packages = tuple(canonicalize_name(name, validate=True) for name in options.with_packages)
    except InvalidName as error:
        raise InputError(f"--with: {error}") from error
    return Wishes(options.stack, options.host, packages, pins)
