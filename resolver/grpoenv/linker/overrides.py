"""Methods that stand in the place of those of a base class in another package.

The base calls them as its own release does. Where the call does not bind, or where a method has
another meaning and takes the name by accident (``get_batch_samples`` of trl's DPOTrainer, since
transformers has one too), the object fails as soon as the base comes to it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from packaging.utils import NormalizedName

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Need
from grpoenv.linker.members import first_given
from grpoenv.linker.signatures import misfit, shape_of, signature_of
from grpoenv.linker.syntax import FunctionNode, calls_of_self, walk
from grpoenv.linker.values import Class, Instance

__all__ = ["check_overrides"]


def check_overrides(interpreter: Interpreter, packages: frozenset[NormalizedName]) -> None:
    """Report methods of classes of ``packages`` that do not do in the place of a foreign base's."""
    for module in interpreter.world.parsed:
        if module.tree.name in packages:
            for statement in module.body:
                if isinstance(statement, ast.ClassDef) and statement.bases:
                    _check_class(interpreter, Class(module, statement))


def _check_class(interpreter: Interpreter, cls: Class) -> None:
    line = interpreter.line_of(cls)
    foreign = [base for base in line if base.module.tree is not cls.module.tree]
    if not foreign:
        return
    for method in cls.node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("__"):
            if isinstance(first_given(method, cls), Instance):
                _check_method(interpreter, cls, method, foreign)
    for target in _given_to_self(cls.node):
        _check_attribute(interpreter, cls, target, foreign)


def _check_method(
    interpreter: Interpreter, cls: Class, method: ast.FunctionDef, foreign: list[Class]
) -> None:
    """Report a call that a base makes and that does not bind, or that means another method."""
    own = next((f for base in foreign if (f := _method(interpreter, base, method.name))), None)
    signature = signature_of(method)
    if own is None or signature is None:
        return
    signature = signature.without_first()
    calls = list(_calls(interpreter, cls, method.name, foreign))
    need = Need(
        "override",
        own[0].module.name,
        f"{own[0].node.name}.{method.name}",
        cls.module,
        method.lineno,
    )
    for base, call in calls if _is_shorter(method, own[1]) else ():
        if why := misfit(shape_of(call), signature):
            reason = f"{base.module.where(call)} calls it, and {method.name}() {why}"
            interpreter.fault("TypeError", need, reason, base.module.tree.name)
            return
    if calls and _is_another(method, own[1]):
        reason = (
            f"{calls[0][0].module.where(calls[0][1])} calls it for its own, "
            f"{method.name}({', '.join(_parameters(own[1]))})"
        )
        interpreter.fault("TypeError", need, reason, own[0].module.tree.name)


def _calls(
    interpreter: Interpreter, cls: Class, name: str, foreign: list[Class]
) -> Iterator[tuple[Class, ast.Call]]:
    """Yield the calls of a method that stand in those of a base which are in force."""
    line = [each for each in interpreter.line_of(cls) if each not in foreign]
    replaced = {known for each in line for known in interpreter.world.members_of(each.node)}
    for base in foreign:
        for caller in base.node.body:
            if isinstance(caller, ast.FunctionDef) and caller.name not in replaced:
                yield from ((base, call) for call in calls_of_self(caller, name))


def _method(interpreter: Interpreter, base: Class, name: str) -> tuple[Class, FunctionNode] | None:
    found = interpreter.world.members_of(base.node).get(name)
    return (base, found) if found is not None else None


def _is_shorter(method: FunctionNode, own: FunctionNode) -> bool:
    """Tell whether a method takes fewer parameters than that of the base, as an older one did.

    One that takes none of them was never meant for the base to call.
    """
    here, there = _parameters(method), _parameters(own)
    return 0 < len(here) < len(there)


def _is_another(method: FunctionNode, own: FunctionNode) -> bool:
    """Tell whether two methods share no more than their name: none of several parameters."""
    here, there = _parameters(method), _parameters(own)
    return min(len(here), len(there)) > 1 and not set(here) & set(there)


def _parameters(method: FunctionNode) -> list[str]:
    return [argument.arg.lstrip("_") for argument in method.args.args[1:]]


def _given_to_self(node: ast.ClassDef) -> Iterator[ast.Attribute]:
    for each in walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
            if isinstance(each.value, ast.Name) and each.value.id == "self":
                yield each


def _check_attribute(
    interpreter: Interpreter, cls: Class, target: ast.Attribute, foreign: list[Class]
) -> None:
    """Report an attribute that is given and that a base has as a property without a setter."""
    line = interpreter.line_of(cls)
    for base in line:
        named = [
            each
            for each in base.node.body
            if isinstance(each, ast.FunctionDef) and each.name == target.attr
        ]
        if not named and target.attr not in interpreter.world.members_of(base.node):
            continue
        if base in foreign and len(named) == 1 and _is_property(named[0]):
            need = Need(
                "setter",
                base.module.name,
                f"{base.node.name}.{target.attr}",
                cls.module,
                target.lineno,
            )
            reason = f"{base.module.where(named[0])} makes it a property without a setter"
            interpreter.fault("AttributeError", need, reason, base.module.tree.name)
        return


def _is_property(method: ast.FunctionDef) -> bool:
    decorators = method.decorator_list
    return (
        len(decorators) == 1
        and isinstance(decorators[0], ast.Name)
        and decorators[0].id == "property"
    )
