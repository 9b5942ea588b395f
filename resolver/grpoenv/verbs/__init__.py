"""The verbs of the command line, a module for each family; here is what they have in common.

A verb's module has one function ``add_…`` that adds its parser, with the function that runs it and
returns the exit code. Verbs import what they need when they run: ``--help`` has to be quick.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpoenv._data import DataPaths, data_paths

if TYPE_CHECKING:
    from grpoenv.matrix import Matrix
    from grpoenv.verify import Verdict

__all__ = [
    "Verbs",
    "add_verb",
    "matrix_data",
    "print_json",
    "program_name",
    "read_matrix",
    "verdict_code",
]

Verbs = Any
"""What ``add_subparsers`` returns; argparse keeps that type to itself."""


def add_verb(
    verbs: Verbs,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help_text: str,
    group: str = "",
) -> argparse.ArgumentParser:
    """Add a verb that ``run`` runs, with the options that all of them have; return its parser."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run, verb=f"{group} {name}".strip())
    parser.add_argument("--json", action="store_true", help="print one JSON object (docs/json.md)")
    parser.add_argument(
        "--matrix", type=Path, metavar="FILE", help="use another compat-matrix.toml"
    )
    return parser


def read_matrix(options: argparse.Namespace) -> tuple[Matrix, DataPaths]:
    """Return the matrix that is asked for, and where its data lie."""
    from grpoenv.matrix_file import load_matrix

    data = matrix_data(options)
    return load_matrix(data.matrix), data


def matrix_data(options: argparse.Namespace) -> DataPaths:
    """Return where the data of the matrix that is asked for lie: grpoenv's own, or ``--matrix``'s."""
    if options.matrix:
        return DataPaths(options.matrix, options.matrix.parent / "lockfiles")
    return data_paths()


def verdict_code(verdict: Verdict) -> int:
    """Return the exit code of a verdict."""
    if verdict.problems:
        return 1
    return 3 if verdict.undetermined else 0


def program_name() -> str:
    """Return how the user called grpoenv, so that a printed command runs as it stands."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{sys.executable} -m grpoenv"
    found = shutil.which("grpoenv")
    if found and Path(called).exists() and os.path.samefile(found, called):
        return "grpoenv"
    return called


def print_json(options: argparse.Namespace, code: int, **fields: object) -> None:
    """Print the one object of ``--json``: the head that all verbs share, and ``fields``."""
    from grpoenv.report import JSON_SCHEMA

    head = {"schema": JSON_SCHEMA, "verb": options.verb, "exit": code}
    print(json.dumps({**head, **fields}, indent=1))
