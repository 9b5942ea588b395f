"""The verb ``update``: tell whether there is a newer grpoenv, or a newer tested stack."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpoenv import __version__
from grpoenv.verbs import Verbs, add_verb, print_json, program_name, read_matrix

__all__ = ["add_update"]


def add_update(verbs: Verbs) -> None:
    """Add ``update``."""
    parser = add_verb(
        verbs, "update", _update, "is there a newer grpoenv, or a newer tested stack?"
    )
    parser.add_argument("--python", type=Path, metavar="PATH", help="ask for this interpreter's")


def _update(options: argparse.Namespace) -> int:
    from grpoenv.installed_stack import read_installed_stack
    from grpoenv.machine import probe_machine
    from grpoenv.planning import make_plan
    from grpoenv.resolve import Wishes
    from grpoenv.target import existing_python
    from grpoenv.update import check_now
    from grpoenv.update_result import NewerRelease, NotDetermined

    matrix, data = read_matrix(options)
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
        print_json(options, code, grpoenv=release, stack=stack)
        return code
    if newest:
        print(f"grpoenv {newest} is available (this is {__version__}): pip install -U grpoenv")
    else:
        why = f"whether there is a newer one is not known: {reason}" if reason else "the newest"
        print(f"grpoenv {__version__}, {why}")
    print(f"stack {record.stack if record else 'none'} installed; best tested: {plan.stack.id}")
    if plan.changes:
        where = f" --python {options.python}" if options.python else ""
        print(
            f"{len(plan.changes)} packages would change: {program_name()} install --dry-run{where}"
        )
    return code
