"""What the user's own scripts take from the installed packages is there, and calls of it bind.

A tutorial is written for one release, and a class or a parameter that it names may have come or
gone (``cannot import name 'GRPOConfig' from 'trl'``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.linkage import LINKED, platform_of, stack_consumers
from grpoenv.checks.script import cell_place, imports_of, read_script
from grpoenv.checks.script_config import CONFIG

if TYPE_CHECKING:
    from grpoenv.linker import Fault

__all__ = ["CHECK"]


def _run(environment: Environment) -> Iterator[Finding]:
    for path in environment.use.scripts:
        try:
            sources = read_script(path)
            ast.parse("\n".join(sources))
        except (SyntaxError, ValueError, RecursionError):
            continue  # ``script`` says so
        yield from _script(environment, path, sources)


def _script(environment: Environment, path: Path, sources: list[str]) -> Iterator[Finding]:
    from grpoenv.linker import ProgramTree, link_program

    trees = environment.trees
    faults = link_program(
        ProgramTree("\n".join(sources), str(path)),
        [trees[name] for name in trees if name in LINKED | stack_consumers(environment)],
        platform_of(environment),
    )
    patched = any(found.package == "unsloth" for found in imports_of(sources))
    for fault in faults:
        if fault.need.kind == "call" and fault.need.name == CONFIG:
            continue  # ``script-config`` says so, and what is meant perhaps
        yield _finding(environment, path, sources, fault, patched=patched)


def _finding(
    environment: Environment, path: Path, sources: list[str], fault: Fault, *, patched: bool
) -> Finding:
    # unsloth gives trl, transformers and peft names of its own when it is imported
    certain = fault.sure and not patched
    line, place = cell_place(sources, fault.need.line)
    provider = environment.label(NormalizedName(fault.provider))
    return Finding(
        Severity.PROBLEM if certain else Severity.WARNING,
        f"{path.name}{place} with {provider}",
        f"{fault.exception}: {fault.need.what}: your script {fault.need.verb} it, and "
        f"{fault.reason}",
        f"{path}{place}",
        remedy=f"change {path}{place}, or install a {fault.provider} that has it",
        file=path,
        line=line,
    )


CHECK = Check(
    "script-names",
    "what your script takes from the packages is there",
    _run,
    evidence="the scripts given to verify, and the sources of the packages",
    seconds=5.0,
)
