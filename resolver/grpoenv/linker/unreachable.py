"""Functions that no code calls: a package writes their calls into sources that it generates.

unsloth puts lines of text into trl's trainers. Whether the trainer that such a line goes into is
there is not told by the function that it calls, so what only that function lacks is no finding.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from grpoenv.linker.faults import Fault, Phase
from grpoenv.linker.modules import Module
from grpoenv.linker.syntax import walk

__all__ = ["reachable"]


def reachable(faults: Iterable[Fault], modules: Iterable[Module]) -> list[Fault]:
    """Return ``faults`` without those of optional functions that texts alone call."""
    listed = list(modules)
    kept = []
    for fault in faults:
        name = _function_around(fault.need.consumer, fault.need.line)
        optional = fault.phase is Phase.OPTION and name
        if not optional or not _called_from_text_alone(name, fault.need.consumer, listed):
            kept.append(fault)
    return kept


def _function_around(module: Module, line: int) -> str:
    for statement in module.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if statement.lineno <= line <= (statement.end_lineno or statement.lineno):
                return statement.name
    return ""


def _called_from_text_alone(name: str, home: Module, modules: list[Module]) -> bool:
    call = re.compile(rf"\b{name}\(")
    from_text = False
    for module in modules:
        if module.tree is not home.tree or name not in module.text:
            continue
        for statement in _with(name, module):
            for node in walk(statement):
                if _names(node, name):
                    return False
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    from_text = from_text or bool(call.search(node.value))
    return from_text


def _with(name: str, module: Module) -> Iterator[ast.stmt]:
    """Yield the statements of a module's top level that have ``name`` in their lines."""
    text = module.text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [number for number, line in enumerate(text.split("\n"), 1) if name in line]
    for statement in module.body:
        decorators = getattr(statement, "decorator_list", [])
        first = min(node.lineno for node in (statement, *decorators))
        last = statement.end_lineno or first
        if any(first <= line <= last for line in lines):
            yield statement


def _names(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Name):
        return node.id == name
    if isinstance(node, ast.Attribute):
        return node.attr == name
    return isinstance(node, ast.alias) and node.name == name
