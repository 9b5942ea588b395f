"""The command line: parse, call, report, and turn errors into exit codes.

0 sound · 1 a problem found · 2 wrong usage · 3 could not be determined · 4 an operation failed and
the environment is as it was. Verbs import what they need when they run: ``--help`` has to be quick.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpoenv import __version__
from grpoenv._data import DataPaths, data_paths
from grpoenv.errors import (
    GrpoenvError,
    InputError,
    NoStackFits,
    OperationError,
    UndeterminedError,
)
from grpoenv.update import BackgroundCheck, start_background_check

if TYPE_CHECKING:
    from grpoenv.matrix import Matrix
    from grpoenv.resolve import Wishes
    from grpoenv.verify import Verdict

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
    _add_install(verbs)
    _add_verify(verbs)
    _add_check(verbs)
    _add_probe(verbs)
    _add_update(verbs)
    _add_matrix(verbs)
    return parser


_Verbs = Any  # argparse keeps the type of what add_subparsers returns to itself


def _verb(
    verbs: _Verbs,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help_text: str,
    group: str = "",
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run, verb=f"{group} {name}".strip())
    parser.add_argument("--json", action="store_true", help="print one JSON object (docs/json.md)")
    parser.add_argument(
        "--matrix", type=Path, metavar="FILE", help="use another compat-matrix.toml"
    )
    return parser


def _add_install(verbs: _Verbs) -> None:
    parser = _verb(verbs, "install", _install, "install a tested stack and verify it")
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


def _add_verify(verbs: _Verbs) -> None:
    parser = _verb(verbs, "verify", _verify, "before training: is this environment sound?")
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


def _add_check(verbs: _Verbs) -> None:
    parser = _verb(verbs, "check", _check, "before installing: would this work?")
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
    parser.add_argument("--notes", action="store_true", help="show what asks for nothing, too")


def _add_probe(verbs: _Verbs) -> None:
    parser = _verb(verbs, "probe", _probe, "what this machine and interpreter are")
    parser.add_argument("--python", type=Path, metavar="PATH", help="probe this interpreter")
    parser.add_argument(
        "--freeze", type=Path, metavar="FILE", help="the package list of a hosted image instead"
    )
    parser.add_argument(
        "--host", choices=("colab", "kaggle"), default="colab", help="what --freeze is an image of"
    )


def _add_update(verbs: _Verbs) -> None:
    parser = _verb(verbs, "update", _update, "is there a newer grpoenv, or a newer tested stack?")
    parser.add_argument("--python", type=Path, metavar="PATH", help="ask for this interpreter's")


def _add_matrix(verbs: _Verbs) -> None:
    parser = verbs.add_parser("matrix", help="the tested stacks and known breaks")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _verb(verbs, "show", _matrix_show, "list the stacks and the breaks", "matrix")
    _verb(verbs, "lint", _matrix_lint, "check the matrix and its locks", "matrix")
    lock = _verb(verbs, "lock", _matrix_lock, "resolve stacks with uv, write locks", "matrix")
    lock.add_argument("stacks", nargs="+", metavar="STACK", help="ids of stacks in the matrix")


def _install(options: argparse.Namespace) -> int:
    from grpoenv import report, report_verdict
    from grpoenv.install import install
    from grpoenv.progress import ConsoleReporter, SilentReporter
    from grpoenv.target import choose_python, prepared_python

    if options.probe and not options.dry_run:
        raise InputError("--probe plans for another machine", remedy="add --dry-run")
    matrix, data = _matrix(options)
    wishes = _wishes(options, matrix)
    python, new_venv = choose_python(options.python, options.venv)
    if options.dry_run:
        return _dry_run(options, matrix, data, wishes, None if new_venv else python)
    with ConsoleReporter() as console, prepared_python(python, new_venv) as python:
        reporter = SilentReporter() if options.json else console
        result = install(python, matrix, data, wishes, reporter, program=_program())
    code = _verdict_code(result.verdict)
    if options.json:
        _print_json(
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
        _print_json(options, 0, plan=report.plan_json(plan))
    else:
        print(report.plan_text(plan))
        for rejection in plan.rejected:
            print(f"rejected {rejection.stack}: {rejection.reasons[0]}")
    return 0


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
        verdict, extra = verify_command(wanted, *_matrix(options), _program())
    code = _verdict_code(verdict)
    if options.json:
        _print_json(options, code, verdict=verdict_json(verdict), **extra)
    else:
        print(verdict_report(verdict, wanted))
    return code


def _check(options: argparse.Namespace) -> int:
    from grpoenv import report_checked, report_verdict
    from grpoenv.asked_target import asked_probe, parse_gpu
    from grpoenv.check import check, parse_wanted
    from grpoenv.target import existing_python

    matrix, data = _matrix(options)
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
    checked = check(wanted, probe, matrix, data, program=_program())
    code = _verdict_code(checked.verdict)
    if options.json:
        _print_json(
            options,
            code,
            **report_checked.checked_json(checked, probe),
            verdict=report_verdict.verdict_json(checked.verdict),
        )
    else:
        print(report_checked.checked_text(checked, probe))
        print(report_verdict.verdict_text(checked.verdict, notes=options.notes))
    return code


def _probe(options: argparse.Namespace) -> int:
    from grpoenv import report
    from grpoenv.gpu import Answer, Gpu
    from grpoenv.machine import probe_machine
    from grpoenv.probe import probe_from_freeze, probe_to_json
    from grpoenv.target import existing_python

    if options.freeze:
        unknown = Gpu(Answer.UNKNOWN, "a package list does not tell")
        probe = probe_from_freeze(options.freeze, host=options.host, gpu=unknown)
    else:
        probe = probe_machine(existing_python(options.python))
    if options.json:
        _print_json(options, 0, **probe_to_json(probe))
    else:
        print(report.probe_text(probe))
    return 0


def _update(options: argparse.Namespace) -> int:
    from grpoenv.installed_stack import read_installed_stack
    from grpoenv.machine import probe_machine
    from grpoenv.planning import make_plan
    from grpoenv.resolve import Wishes
    from grpoenv.target import existing_python
    from grpoenv.update import check_now
    from grpoenv.update_result import NewerRelease, NotDetermined

    matrix, data = _matrix(options)
    probe = probe_machine(existing_python(options.python))
    record = read_installed_stack(probe.interpreter)
    plan = make_plan(probe, matrix, data, Wishes())
    result = check_now()
    code = 3 if isinstance(result, NotDetermined) else 0
    newest = result.newest if isinstance(result, NewerRelease) else None
    reason = result.reason if isinstance(result, NotDetermined) else None
    if options.json:
        release = {"installed": __version__, "newest": newest, "not_determined": reason}
        stack = {"installed": record.stack if record else None, "best": plan.stack.id}
        _print_json(options, code, grpoenv=release, stack=stack)
        return code
    if newest:
        print(f"grpoenv {newest} is available (this is {__version__}): pip install -U grpoenv")
    else:
        why = f"whether there is a newer one is not known: {reason}" if reason else "the newest"
        print(f"grpoenv {__version__}, {why}")
    print(f"stack {record.stack if record else 'none'} installed; best tested: {plan.stack.id}")
    if plan.changes:
        where = f" --python {options.python}" if options.python else ""
        print(f"{len(plan.changes)} packages would change: {_program()} install --dry-run{where}")
    return code


def _matrix_show(options: argparse.Namespace) -> int:
    from grpoenv import report

    matrix, _ = _matrix(options)
    if options.json:
        _print_json(options, 0, **report.matrix_json(matrix))
    else:
        print(report.matrix_text(matrix))
    return 0


def _matrix_lint(options: argparse.Namespace) -> int:
    from grpoenv.matrix_lint import lint

    matrix, data = _matrix(options)
    errors = lint(matrix, data.locks)
    if options.json:
        _print_json(options, int(bool(errors)), errors=[str(error) for error in errors])
    else:
        for error in errors:
            print(error)
        print(f"{len(errors)} errors, {len(matrix.stacks)} stacks, {len(matrix.breaks)} breaks")
    return int(bool(errors))


def _matrix_lock(options: argparse.Namespace) -> int:
    from grpoenv.matrix_lock import lock_stack

    written = []
    for id_ in options.stacks:
        for path in lock_stack(_data(options), id_):
            written.append(str(path))
            if not options.json:
                print(path)
    if options.json:
        _print_json(options, 0, locks=written)
    return 0


def _matrix(options: argparse.Namespace) -> tuple[Matrix, DataPaths]:
    from grpoenv.matrix_file import load_matrix

    data = _data(options)
    return load_matrix(data.matrix), data


def _data(options: argparse.Namespace) -> DataPaths:
    if options.matrix:
        return DataPaths(options.matrix, options.matrix.parent / "lockfiles")
    return data_paths()


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


def _verdict_code(verdict: Verdict) -> int:
    if verdict.problems:
        return 1
    return 3 if verdict.undetermined else 0


def _program() -> str:
    """Return how the user called grpoenv, so that a printed command runs as it stands."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{sys.executable} -m grpoenv"
    found = shutil.which("grpoenv")
    if found and Path(called).exists() and os.path.samefile(found, called):
        return "grpoenv"
    return called


def _report_error(options: argparse.Namespace, error: GrpoenvError, code: int) -> None:
    if options.json:
        _print_json(options, code, error={"message": error.message, "remedy": error.remedy})
        return
    print(f"grpoenv: {error.message}", file=sys.stderr)
    if error.remedy:
        print(f"what to do: {error.remedy}", file=sys.stderr)


def _print_json(options: argparse.Namespace, code: int, **fields: object) -> None:
    from grpoenv.report import JSON_SCHEMA

    head = {"schema": JSON_SCHEMA, "verb": options.verb, "exit": code}
    print(json.dumps({**head, **fields}, indent=1))


def _show_notice(check: BackgroundCheck) -> None:
    """Tell what an earlier run found, and give a check that is under way a moment to end."""
    if check.earlier is not None:
        from grpoenv.update_result import notice

        print(notice(check.earlier), file=sys.stderr)
    check.wait()


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt
