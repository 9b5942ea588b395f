"""Choose the interpreter that packages go into, making a virtual environment where it takes one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from grpoenv.errors import InputError, OperationError
from grpoenv.host import find_host
from grpoenv.uv import run_uv

__all__ = ["choose_python", "interpreter_of", "prepared_python"]

_TOOL_MARKERS = ("pipx_metadata.json", "uv-receipt.toml")
"""Files in the environments that pipx and uv make for a tool alone: no place for a stack."""


def choose_python(
    python: Path | None, venv: Path | None, environment: Mapping[str, str] = os.environ
) -> tuple[Path, Path | None]:
    """Return the interpreter to install into, and the folder of its environment if that is new.

    ``--venv`` and ``--python`` go first, then the active environment, the one that grpoenv runs in,
    on a hosted notebook the running interpreter, and last a new ``.venv`` here.
    """
    if venv is not None:
        return _in_venv(venv)
    if python is not None:
        return python, None
    if "VIRTUAL_ENV" in environment:
        return _in_venv(Path(environment["VIRTUAL_ENV"]))
    is_tool = any((Path(sys.prefix) / marker).exists() for marker in _TOOL_MARKERS)
    hosted = find_host(environment).kind in ("colab", "kaggle")
    if hosted or (sys.prefix != sys.base_prefix and not is_tool):
        return Path(sys.executable), None
    return _in_venv(Path(".venv"))


@contextmanager
def prepared_python(python: Path, new_venv: Path | None, base: Path | None) -> Iterator[Path]:
    """Give ``python``, making the environment ``new_venv`` for it first where there is one to make.

    ``base`` is the interpreter to make it from, by default the running one. If the body fails, an
    environment that was made here is removed again. Raises OperationError if it cannot be made.
    """
    if new_venv is None:
        yield python
        return
    run = run_uv(["venv", "--quiet", "--python", base or sys.executable, new_venv.absolute()])
    if run.status != 0:
        raise OperationError(f"no virtual environment could be made in {new_venv}: {run.messages}")
    try:
        yield python
    except BaseException:
        shutil.rmtree(new_venv, ignore_errors=True)
        raise


def interpreter_of(venv: Path) -> Path:
    """Return the path of the interpreter of a virtual environment on this platform."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _in_venv(venv: Path) -> tuple[Path, Path | None]:
    python = interpreter_of(venv).absolute()
    if python.exists():
        return python, None
    if venv.exists() and (not venv.is_dir() or any(venv.iterdir())):
        raise InputError(
            f"{venv} is there and is no virtual environment",
            remedy="give --venv a folder that is empty or not there yet",
        )
    return python, venv
