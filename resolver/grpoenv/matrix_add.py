"""Make a row of the matrix for a release: a recipe of one pin, locked as of today."""

from __future__ import annotations

import datetime
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from grpoenv._data import DataPaths
from grpoenv.errors import InputError
from grpoenv.matrix import RUNTIMES
from grpoenv.matrix_lock import Locked, lock_stacks
from grpoenv.matrix_render import read_rows, write_rows

__all__ = ["PLATFORM", "add_stack"]

PLATFORM = "x86_64-manylinux_2_28"
"""The platform of a new row; ``matrix lock --all-targets`` adds others."""


def add_stack(data: DataPaths, pin: str, python: str) -> tuple[str, Locked]:
    """Add the stack of ``pin``, such as ``"trl==1.16.0"``, and lock it; return its id, too.

    If uv finds no set for it, the matrix stays as it was. Raises InputError where ``pin`` is of
    another form or the matrix has the stack already.
    """
    recipe = _recipe(pin, python)
    document = read_rows(data.matrix)
    stacks = document.setdefault("stack", [])
    if any(row.get("id") == recipe["id"] for row in stacks):
        raise InputError(f"has the stack {recipe['id']!r} already", path=data.matrix)
    before = data.matrix.read_bytes()
    stacks.append(recipe)
    write_rows(data.matrix, document)
    locked = None
    try:
        locked = lock_stacks(data, [recipe["id"]])
    finally:
        if locked is None or locked.refused:
            data.matrix.write_bytes(before)
    return recipe["id"], locked


def _recipe(pin: str, python: str) -> dict[str, Any]:
    name, _, text = pin.partition("==")
    runtime = canonicalize_name(name)
    try:
        version = Version(text)
    except InvalidVersion as error:
        raise InputError(f"{pin!r} is not of the form PACKAGE==VERSION") from error
    if runtime not in RUNTIMES:
        raise InputError(
            f"{pin!r} pins none of {', '.join(RUNTIMES)}, which stacks are named after"
        )
    return {
        "id": f"{runtime}-{version}",
        "runtime": runtime,
        "summary": f"{runtime} {version}, with everything else as of its first day in here",
        "requires": [f"{runtime}=={version}"],
        "as_of": datetime.datetime.now(datetime.timezone.utc).date(),
        "target": [{"python": python, "platform": PLATFORM}],
    }
