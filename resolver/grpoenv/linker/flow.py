"""How a block of statements ends, and which ``try`` keeps what is raised in it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from grpoenv.linker.syntax import FunctionNode

if TYPE_CHECKING:
    from grpoenv.linker.faults import Fault

__all__ = [
    "Flow",
    "Thrown",
    "exception_name",
    "joined",
    "keeps",
    "last_name",
    "refusals_of",
    "suppressed",
]

_PARENTS = {
    "ModuleNotFoundError": ("ImportError",),
    "KeyError": ("LookupError",),
    "NotImplementedError": ("RuntimeError",),
    "PackageNotFoundError": ("ModuleNotFoundError", "ImportError"),
}


class Flow(Enum):
    """How a block ends."""

    ON = "goes on"
    MAYBE = "may have returned"
    OUT = "has returned"
    RAISED = "has raised"


class Thrown(Exception):
    """An exception that a ``try`` further up catches, and the fault that raises it, if one does."""

    def __init__(self, exception: str, fault: Fault | None = None) -> None:
        super().__init__(exception)
        self.exception = exception
        self.fault = fault


def keeps(kept: frozenset[str] | None, exception: str) -> bool:
    """Tell whether an exception is among those that are kept; None stands for everything."""
    if kept is None:
        return True
    return exception in kept or any(p in kept for p in _PARENTS.get(exception, ()))


def joined(flows: Sequence[Flow]) -> Flow:
    """Return how a choice between blocks ends; a branch that raises is taken not to be chosen."""
    others = [flow for flow in flows if flow is not Flow.RAISED]
    if not others:
        return Flow.MAYBE
    if all(flow is Flow.ON for flow in others):
        return Flow.ON
    if len(others) == len(flows) and all(flow is Flow.OUT for flow in others):
        return Flow.OUT
    return Flow.MAYBE


def exception_name(node: ast.Raise) -> str:
    """Return the name of what a statement raises, empty where it does not show."""
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    if isinstance(raised, ast.Attribute):
        return raised.attr
    return raised.id if isinstance(raised, ast.Name) else ""


def refusals_of(node: FunctionNode) -> list[tuple[ast.expr, ast.Raise]]:
    """Return the ``if ...: raise ...`` that a function begins with, each as test and statement."""
    found = []
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    for statement in body:
        if not isinstance(statement, ast.If) or statement.orelse:
            break
        if not isinstance(statement.body[0], ast.Raise):
            break
        found.append((statement.test, statement.body[0]))
    return found


def suppressed(node: ast.expr) -> frozenset[str] | None:
    """Return what ``contextlib.suppress(...)`` keeps, nothing for other context managers."""
    if isinstance(node, ast.Call) and last_name(node.func) == "suppress":
        names = frozenset(last_name(argument) for argument in node.args)
        return None if names & {"Exception", "BaseException"} else names
    return frozenset()


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name, empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
