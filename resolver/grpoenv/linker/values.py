"""What the linker knows of a value: little, and never more than is certain."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.version import Version

from grpoenv.linker.modules import Module

__all__ = [
    "ABSENT",
    "UNKNOWN",
    "Absent",
    "Class",
    "Const",
    "Function",
    "Instance",
    "Keywords",
    "Listing",
    "ModuleRef",
    "Partial",
    "Registry",
    "Result",
    "Source",
    "Super",
    "Unknown",
    "Value",
]


Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Unknown:
    """Anything at all, with the reason why no more is known."""

    reason: str = ""


@dataclass(frozen=True)
class Absent:
    """There is certainly no such thing; ``where`` was looked through.

    ``conditional`` tells that there would be if a condition were met.
    """

    where: str = ""
    conditional: bool = False


@dataclass(frozen=True)
class ModuleRef:
    """A module by its full name."""

    name: str


@dataclass(frozen=True)
class Const:
    """A text, number, version or truth value, or several."""

    value: Plain | Version | tuple[Plain, ...]


@dataclass(frozen=True, eq=False)
class Function:
    """A function; ``bound`` when its first argument is given already."""

    module: Module = field(repr=False)
    node: ast.FunctionDef | ast.AsyncFunctionDef
    owner: Class | None = None
    bound: bool = False


@dataclass(frozen=True)
class Class:
    """A class and the module that defines it."""

    module: Module = field(repr=False, compare=False)
    node: ast.ClassDef


@dataclass(frozen=True)
class Instance:
    """An object of a class."""

    cls: Class


@dataclass(frozen=True, eq=False)
class Partial:
    """An object of which only some attributes are known; what else it has, ``cls`` tells."""

    attributes: Mapping[str, Value]
    cls: Class | None = None


@dataclass(frozen=True)
class Super:
    """What ``super()`` gives in a method of a class: an object seen as one of the class's bases."""

    cls: Class


@dataclass(frozen=True)
class Registry:
    """A dictionary at the top level of a module."""

    module: Module = field(repr=False)
    name: str


@dataclass(frozen=True)
class Listing:
    """A list at the top level of a module."""

    module: Module = field(repr=False)
    name: str


@dataclass(frozen=True, eq=False)
class Source:
    """The source text of a function or class, as ``inspect.getsource`` gives it."""

    of: Function | Class
    name: str


@dataclass(frozen=True, eq=False)
class Result:
    """What a call of a known function returned; ``filled`` if it is a tuple that is never empty."""

    function: Function
    filled: bool = False
    value: Value = Unknown()


@dataclass(frozen=True)
class Keywords:
    """The keywords that a call leaves to ``**keywords``; more of them where it is ``open``."""

    names: frozenset[str]
    open: bool
    function: str
    caller: Module = field(repr=False, compare=False)


Value = (
    Unknown
    | ModuleRef
    | Const
    | Function
    | Class
    | Instance
    | Partial
    | Super
    | Registry
    | Listing
    | Source
    | Result
    | Keywords
)
UNKNOWN = Unknown()
ABSENT = Absent()
