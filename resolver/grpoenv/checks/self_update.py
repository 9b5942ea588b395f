"""Packages that install others when they are imported: what was chosen does not stay.

unsloth did so with its zoo: ``import unsloth`` replaced an installed one without asking.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.kept import Made, kept_findings, key_of

__all__ = ["CHECK"]

_PACKAGES = tuple(map(NormalizedName, ("unsloth", "unsloth-zoo")))
_INSTALLS = re.compile(r"\b(?:uv )?pip3? install\b")
_RUNS = ("system", "run", "call", "check_call", "check_output", "Popen")
_SWITCH = "UNSLOTH_DISABLE_AUTO_UPDATES"


def _run(environment: Environment) -> Iterator[Finding]:
    names = [name for name in _PACKAGES if name in environment.trees]
    if names:
        switched = environment.use.variables.get(_SWITCH) == "1"
        key = key_of(environment, names, [Path(__file__)], switched)
        yield from kept_findings("self-update", key, lambda: _make(environment, names, switched))


def _make(environment: Environment, names: Iterable[NormalizedName], switched: bool) -> Made:
    found, files = [], []
    for name in names:
        path = f"{name.replace('-', '_')}/__init__.py"
        files.append(environment.trees[name].locate(path))
        try:
            text = environment.trees[name].read(path).decode("utf-8", "replace")
            lines = list(_installing_lines(ast.parse(text)))
        except (OSError, KeyError, SyntaxError, ValueError, RecursionError):
            continue  # ``files`` and ``linkage`` say so
        if lines and not (_SWITCH in text and switched):
            found.append(_finding(environment, name, path, lines[0], switch=_SWITCH in text))
    # What is in a wheel is told by the wheel's hash, which the key has.
    return found, files if environment.planned is None else []


def _installing_lines(tree: ast.Module) -> Iterator[int]:
    """Yield the lines whose calls run a command that installs something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            function = node.func
            if isinstance(function, ast.Attribute) and function.attr in _RUNS:
                texts = [c.value for c in ast.walk(node.args[0]) if isinstance(c, ast.Constant)]
                if _INSTALLS.search(" ".join(map(str, texts))):
                    yield node.lineno


def _finding(
    environment: Environment, name: NormalizedName, path: str, line: int, *, switch: bool
) -> Finding:
    return Finding(
        Severity.WARNING,
        environment.label(name),
        "installs packages when it is imported: what it takes for too old is replaced without "
        "notice",
        f"{environment.trees[name].locate(path)}:{line} (incident unsloth-1961)",
        remedy=f"export {_SWITCH}=1" if switch else "",
    )


CHECK = Check(
    "self-update",
    "importing a package does not install another",
    _run,
    evidence="the commands that the packages' own __init__.py runs",
    seconds=0.2,
)
