"""`RL_REPLACEMENTS`: from the names that the ecosystem uses to functions, immutable.

Every key that a release of unsloth has read has a contract (`CONTRACTS`). A key without a function
here is absent for a reason, and the `KeyError` says which. Functions are imported when they are
first asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from grpoenv import __version__
from grpoenv_runtime.contracts import Contract, Provided, Withheld
from grpoenv_runtime.contracts_losses import LOSS_CONTRACTS
from grpoenv_runtime.contracts_tensors import TENSOR_CONTRACTS
from grpoenv_runtime.contracts_withheld import UNREAD_KEYS

__all__ = [
    "CONTRACTS",
    "IncompleteRegistryError",
    "Registry",
    "UnknownKeyError",
    "WithheldKeyError",
    "check_registry",
    "signature_of",
]

CONTRACTS: Final[Mapping[str, Contract]] = MappingProxyType(
    {contract.key: contract for contract in (*LOSS_CONTRACTS, *TENSOR_CONTRACTS)}
)
REMEDY: Final = "python -m pip install --force-reinstall --no-deps grpoenv=={version}"


class UnknownKeyError(KeyError):
    """No release of unsloth has read this key and none of its zoo defines it."""

    def __init__(self, key: object) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"{self.key!r} is not a key that any release of unsloth or its zoo uses"


class WithheldKeyError(UnknownKeyError):
    """The key is known and absent on purpose."""

    def __init__(self, key: str, since: str, reason: str) -> None:
        super().__init__(key)
        self.since = since
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key!r} (unsloth_zoo {self.since} on) is not provided: {self.reason}"


class IncompleteRegistryError(ImportError):
    """A function that a contract promises is missing or has another signature."""

    def __init__(self, key: str, found: str, expected: str) -> None:
        import torch

        remedy = REMEDY.format(version=__version__)
        super().__init__(
            f"RL_REPLACEMENTS[{key!r}] of grpoenv {__version__} (torch {torch.__version__}) "
            f"should be {expected} but is {found}: the installation is damaged or mixed. "
            f"Run: {remedy}"
        )
        self.key = key
        self.remedy = remedy


class Registry(Mapping[str, Callable[..., Any]]):
    """An immutable mapping from key to function."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Callable[..., Any]:
        """Return the function of `key`; raises WithheldKeyError or UnknownKeyError."""
        contract = CONTRACTS.get(key)
        if contract is not None and isinstance(contract.ours, Provided):
            return _load(contract.ours)
        if contract is not None and isinstance(contract.ours, Withheld):
            raise WithheldKeyError(key, contract.eras[0].since, contract.ours.reason)
        if key in UNREAD_KEYS:
            raise WithheldKeyError(key, *UNREAD_KEYS[key])
        raise UnknownKeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (key for key, found in CONTRACTS.items() if isinstance(found.ours, Provided))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Registry({', '.join(self)})"


def check_registry(registry: Mapping[str, Callable[..., Any]]) -> None:
    """Raise IncompleteRegistryError unless every promised function is there as promised."""
    for key, contract in CONTRACTS.items():
        if not isinstance(contract.ours, Provided):
            continue
        expected = f"{contract.ours.name}{contract.ours.signature}"
        try:
            function = registry[key]
        except (ImportError, AttributeError, KeyError) as error:
            raise IncompleteRegistryError(key, f"missing ({error})", expected) from error
        found = signature_of(function)
        if found != contract.ours.signature:
            raise IncompleteRegistryError(key, f"{contract.ours.name}{found}", expected)


def signature_of(function: Callable[..., Any]) -> str:
    """Return the parameters of `function` in the form that contracts use."""
    parts: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else stars
        parts.append(f"{stars}{name}{'' if parameter.default is parameter.empty else '='}")
    return f"({', '.join(parts)})"


def _load(provided: Provided) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(provided.module), provided.name)
    return function
