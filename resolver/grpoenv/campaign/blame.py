"""Between which two packages did an import fail? Read from the exception and the files behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import NormalizedName, canonicalize_name

from grpoenv.lockfile import parse_lock

__all__ = ["UNDECLARED", "Blame", "blame", "undeclared"]

UNDECLARED = {
    "setuptools": "setuptools",
    "pkg_resources": "setuptools",
    "PIL": "pillow",
    "psutil": "psutil",
    "rich": "rich",
    "peft": "peft",
    "requests": "requests",
    "torchvision": "torchvision",
    "yaml": "pyyaml",
    "packaging": "packaging",
    "wheel": "wheel",
    "protobuf": "protobuf",
    "sentencepiece": "sentencepiece",
}
"""Modules that packages of a stack are known to import without declaring who has them.

A missing module of any other name is not installed on the word of an exception.
"""
_NAME = re.compile(r"cannot import name '(?P<name>\w+)'")
_SITE = re.compile(r".*/site-packages/(?P<module>[^/]+)")


@dataclass(frozen=True)
class Blame:
    """``taker`` takes ``symbol``, which ``provider`` lacks; empty where that cannot be told.

    Both are told with their versions, as ``name==version``.
    """

    taker: str = ""
    provider: str = ""
    symbol: str = ""


def blame(seen: Mapping[str, Any], lock: str) -> Blame:
    """Return who is to blame for the exception that ``_entry_points`` describes in ``seen``.

    Both have to be different packages of the ``lock``, or nothing is told.
    """
    if seen.get("kind") not in ("ImportError", "ModuleNotFoundError", "AttributeError"):
        return Blame()
    pins = parse_lock(lock, path=Path("lock")).pins
    of_object = seen["kind"] == "AttributeError"
    module, name = (seen.get("owner"), seen.get("module")) if of_object else _imported(seen)
    taker, provider = _package(_last_module(seen)), _package(str(module))
    if taker == provider or taker not in pins or provider not in pins:
        return Blame()
    return Blame(
        f"{taker}=={pins[taker].version}",
        f"{provider}=={pins[provider].version}",
        f"{module}.{name}" if name else str(module),
    )


def undeclared(seen: Mapping[str, Any], lock: str) -> dict[str, str]:
    """Return the package of the module that was missed, with the reason for adding it, if known."""
    module = str(seen.get("module"))
    if seen.get("kind") != "ModuleNotFoundError" or module not in UNDECLARED:
        return {}
    pins = parse_lock(lock, path=Path("lock")).pins
    taker = _package(_last_module(seen))
    label = f"{taker} {pins[taker].version}" if taker in pins else "a package of the stack"
    return {UNDECLARED[module]: f"{label} imports {module} and does not declare it"}


def _imported(seen: Mapping[str, Any]) -> tuple[object, object]:
    """Return the module and the name of an ImportError; only its words tell the name before 3.12."""
    name = _NAME.search(str(seen.get("first")))
    return seen.get("module"), name["name"] if name else None


def _last_module(seen: Mapping[str, Any]) -> str:
    """Return the top module of the last file behind the exception that is of a package."""
    found = [match["module"] for file in seen.get("files", ()) if (match := _SITE.match(file))]
    return found[-1].removesuffix(".py") if found else ""


def _package(module: str) -> NormalizedName:
    return canonicalize_name(module.partition(".")[0])
