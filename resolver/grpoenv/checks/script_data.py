"""What the user's scripts load data sets from: a data set that is a Python script is run no more."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.script import cell_place, read_script

__all__ = ["CHECK"]

_DATASETS = NormalizedName("datasets")
_WITHOUT_SCRIPTS = Version("4")
"""datasets 4.0.0: "Dataset scripts are no longer supported" (its release notes)."""


def _run(environment: Environment) -> Iterator[Finding]:
    version = environment.versions.get(_DATASETS)
    if version is None or version < _WITHOUT_SCRIPTS:
        return
    for path in environment.use.scripts:
        try:
            sources = read_script(path)
            tree = ast.parse("\n".join(sources))
        except (SyntaxError, ValueError, RecursionError):
            continue  # ``script`` says so
        for line, loaded in _loaded_scripts(tree):
            yield _finding(environment, path, cell_place(sources, line), loaded)


def _loaded_scripts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = name or (function.id if isinstance(function, ast.Name) else "")
            if name == "load_dataset" and str(node.args[0].value).endswith(".py"):
                yield node.lineno, str(node.args[0].value)


def _finding(environment: Environment, path: Path, found: tuple[int, str], loaded: str) -> Finding:
    line, place = found
    label = environment.label(_DATASETS)
    return Finding(
        Severity.PROBLEM,
        f"{path.name}{place} with {label}",
        f"loads the data set script {loaded}, and {label} runs none",
        f"{path}{place} (incident livecodebench-107)",
        remedy="convert the data set to Parquet, or install 'datasets<4'",
        file=path,
        line=line,
    )


CHECK = Check(
    "script-data",
    "your script loads data sets in a form that the installed datasets reads",
    _run,
    evidence="the calls of load_dataset in the scripts given to verify",
    seconds=0.5,
)
