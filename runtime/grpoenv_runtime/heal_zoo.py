"""`heal()`: fill the registry keys that the installed unsloth reads and its zoo lacks.

Call it before unsloth is imported. It fills a key only where the contract of that key is kept, and
only where every key that the zoo does have still means what this unsloth expects; otherwise it
changes nothing and says which pair was tested. What an unsloth expects is what the oldest zoo that
its own metadata admits has (`contracts`).
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from grpoenv._data import data_paths
from grpoenv.errors import GrpoenvError
from grpoenv.linker.keys import required_keys
from grpoenv.matrix_file import load_matrix
from grpoenv_runtime.contracts import Era, Kind, era_at, release
from grpoenv_runtime.heal_stand_ins import stand_in
from grpoenv_runtime.registry import CONTRACTS

__all__ = ["HealError", "Healing", "Need", "heal", "matrix_pair", "read_need"]

_LOGGER = logging.getLogger("grpoenv.heal")
_ZOO_MODULE = "unsloth_zoo.rl_replacements"


class HealError(RuntimeError):
    """The installed pair cannot be healed; nothing was changed."""

    def __init__(self, unsloth: str, zoo: str, reason: str) -> None:
        self.unsloth, self.zoo, self.reason = unsloth, zoo, reason
        self.tested = matrix_pair(unsloth)
        super().__init__(
            f"unsloth {unsloth} with unsloth_zoo {zoo} cannot be healed: {reason}. "
            f"Use a tested pair: {self.tested}"
        )


@dataclass(frozen=True)
class Healing:
    """What `heal` did: the keys that it filled, none where the zoo had them all."""

    unsloth: str
    zoo: str
    filled: tuple[str, ...]

    def __str__(self) -> str:
        pair = f"unsloth {self.unsloth} with unsloth_zoo {self.zoo}"
        if not self.filled:
            return f"{pair}: no registry key is missing"
        return f"{pair}: filled the missing registry keys {', '.join(self.filled)}"


@dataclass(frozen=True)
class Need:
    """What an installed unsloth takes from its zoo's registry module.

    Attributes:
        keys: registry keys that it reads and cannot do without.
        names: other names that it imports from the module.
        zoo: the oldest zoo that its metadata admits.

    """

    keys: frozenset[str]
    names: frozenset[str]
    zoo: str


def heal() -> Healing:
    """Fill the installed zoo's missing registry keys, log what was done and return it.

    Raises:
        HealError: unsloth is imported already, a package is missing or unreadable, or a key or name
            cannot be filled with its meaning kept.

    """
    unsloth, zoo = _installed("unsloth"), _installed("unsloth_zoo")
    if "unsloth" in sys.modules:
        raise HealError(unsloth, zoo, "unsloth is imported already; heal before importing it")
    need = read_need(unsloth, zoo)
    module = _zoo_module(unsloth, zoo)
    registry: MutableMapping[str, Any] = module.RL_REPLACEMENTS
    missing = sorted(need.keys - registry.keys())
    if missing:
        absent = sorted(name for name in need.names if not hasattr(module, name))
        if absent:
            raise HealError(unsloth, zoo, f"the zoo lacks {', '.join(absent)}, which is no key")
        reason = _mismatch(need, registry, zoo)
        if reason is not None:
            raise HealError(unsloth, zoo, reason)
    found = {key: _filling(key, need, unsloth, zoo) for key in missing}
    registry.update(found)
    healing = Healing(unsloth, zoo, tuple(found))
    _LOGGER.log(logging.WARNING if found else logging.INFO, "%s", healing)
    return healing


def read_need(unsloth: str, zoo: str) -> Need:
    """Read, without importing it, what the installed unsloth takes from the zoo's registry."""
    spec = find_spec("unsloth")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    keys: set[str] = set()
    names: set[str] = set()
    try:
        for path in (path for folder in folders for path in Path(folder).rglob("*.py")):
            source = path.read_text("utf-8")
            if "rl_replacements" in source:
                keys |= required_keys(source, "RL_REPLACEMENTS")
                names |= _imported_names(source)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise HealError(unsloth, zoo, f"unsloth cannot be read ({error})") from error
    return Need(frozenset(keys), frozenset(names) - {"RL_REPLACEMENTS"}, _oldest_zoo(unsloth, zoo))


def matrix_pair(unsloth: str) -> str:
    """Name the pair of the matrix for this unsloth, or the newest one, and how to install it."""
    unsloth_name, zoo_name = NormalizedName("unsloth"), NormalizedName("unsloth-zoo")
    try:
        stacks = load_matrix(data_paths().matrix).stacks
    except GrpoenvError as error:
        return f"`grpoenv install --stack unsloth` (the matrix cannot be read: {error})"
    pairs = [stack for stack in stacks if {unsloth_name, zoo_name} <= stack.versions.keys()]
    if not pairs:
        return "`grpoenv install --stack unsloth`"
    same = [stack for stack in pairs if str(stack.versions[unsloth_name]) == unsloth]
    best = same[0] if same else max(pairs, key=lambda stack: stack.versions[unsloth_name])
    return (
        f"unsloth=={best.versions[unsloth_name]} unsloth_zoo=={best.versions[zoo_name]}, "
        f"by `grpoenv install --stack {best.id}`"
    )


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise HealError("?", "?", f"{name} is not installed") from error


def _oldest_zoo(unsloth: str, zoo: str) -> str:
    requirements = [Requirement(line) for line in importlib.metadata.requires("unsloth") or ()]
    bounds = [
        clause.version
        for requirement in requirements
        if canonicalize_name(requirement.name) == "unsloth-zoo"
        for clause in requirement.specifier
        if clause.operator in (">=", "==", "~=")
    ]
    if not bounds:
        raise HealError(unsloth, zoo, "unsloth's metadata does not say which zoo it expects")
    return max(bounds, key=release)


def _imported_names(source: str) -> set[str]:
    imports = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in imports if node.module == _ZOO_MODULE for alias in node.names}


def _zoo_module(unsloth: str, zoo: str) -> ModuleType:
    """Import the zoo's registry module, which insists on a sign that unsloth sets."""
    sign = "UNSLOTH_IS_PRESENT"
    before = os.environ.get(sign)
    os.environ[sign] = before or "1"
    try:
        return importlib.import_module(_ZOO_MODULE)
    except Exception as error:  # the zoo raises many kinds: no GPU, a missing package, a pin
        reason = f"{_ZOO_MODULE} cannot be imported ({type(error).__name__}: {error})"
        raise HealError(unsloth, zoo, reason) from error
    finally:
        if before is None:
            del os.environ[sign]


def _mismatch(need: Need, registry: MutableMapping[str, Any], zoo: str) -> str | None:
    """Say which key of the zoo means something else than unsloth expects, None if none does."""
    for key in sorted(need.keys & registry.keys() & CONTRACTS.keys()):
        contract = CONTRACTS[key]
        expected, had = era_at(contract.eras, need.zoo), era_at(contract.eras, zoo)
        if expected is None or had is None or expected != had:
            return (
                f"{key} changed its signature or meaning between unsloth_zoo {zoo} and "
                f"{need.zoo}, which this unsloth asks for"
            )
        found = _parameters(registry[key], contract.kind)
        if found != expected.parameters:
            return (
                f"the zoo's {key} takes {_listed(found)}, expected {_listed(expected.parameters)}"
            )
    return None


def _filling(key: str, need: Need, unsloth: str, zoo: str) -> Callable[..., Any] | str:
    contract = CONTRACTS.get(key)
    era: Era | None = None if contract is None else era_at(contract.eras, need.zoo)
    found = None if era is None else stand_in(key, era.since)
    if found is None:
        raise HealError(unsloth, zoo, f"nothing here keeps the meaning of {key}")
    return found


def _parameters(value: Any, kind: Kind) -> tuple[str, ...]:
    if kind is Kind.SOURCE_TEXT:
        function = next(node for node in ast.parse(value).body if isinstance(node, ast.FunctionDef))
        return tuple(argument.arg for argument in function.args.args)
    if kind is Kind.AUTOGRAD_FUNCTION:
        return tuple(inspect.signature(value.forward).parameters)[1:]
    return tuple(inspect.signature(value).parameters)


def _listed(parameters: tuple[str, ...]) -> str:
    return f"({', '.join(parameters)})"
