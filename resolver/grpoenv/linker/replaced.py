"""Methods of a trainer that another package puts functions of its own in the place of.

``Trainer.get_batch_samples = _unsloth_get_batch_samples`` stands in a function that is handed the
class, so what it does is not seen by following it; what the class itself then calls shows all the
same, and a call that does not bind ends the run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Need
from grpoenv.linker.frames import Frame
from grpoenv.linker.modules import Module
from grpoenv.linker.signatures import misfit, shape_of, signature_of
from grpoenv.linker.syntax import calls_of_self, walk
from grpoenv.linker.values import Class, Function

__all__ = ["check_replaced_methods"]

_HOME = "transformers"
_REPLACES = re.compile(r"^\s+(\w*Trainer)\.\w+ *= *\w+", re.MULTILINE)
_CHOICES = (ast.If, ast.IfExp, ast.BoolOp, ast.Try, ast.Lambda, ast.FunctionDef, ast.comprehension)
_EACH_STEP = ("_inner_training_loop", "training_step")


def check_replaced_methods(interpreter: Interpreter) -> None:
    """Report the calls that a trainer makes and that do not bind to what replaced the method."""
    replaced: dict[tuple[Class, str], list[Function]] = {}
    for cls, name, function in _replacements(interpreter):
        replaced.setdefault((cls, name), []).append(function)
    for (cls, name), functions in replaced.items():
        doubtful = set(_under_conditions(cls))
        for call in calls_of_self(cls.node, name):
            if call not in doubtful:
                _check(interpreter, cls, call, functions)
            else:
                with interpreter.unsure():
                    _check(interpreter, cls, call, functions)


def _replacements(interpreter: Interpreter) -> Iterator[tuple[Class, str, Function]]:
    """Yield each class with the name of the method and the function that takes its place."""
    world = interpreter.world
    for module in world.parsed:
        if module.name.partition(".")[0] == _HOME or not _REPLACES.search(module.text):
            continue
        for statement in module.body:
            for node in walk(statement):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                    target = node.targets[0]
                    cls = _trainer(interpreter, target.value)
                    function = world.evaluator.eval(node.value, Frame(module))
                    if cls is not None and isinstance(function, Function):
                        yield cls, target.attr, function


def _trainer(interpreter: Interpreter, holder: ast.expr) -> Class | None:
    """Return the class that transformers has under a name, be it handed over or imported."""
    if not isinstance(holder, ast.Name) or not isinstance(interpreter.world.module(_HOME), Module):
        return None
    found = interpreter.world.lookup(_HOME, holder.id)
    return found if isinstance(found, Class) else None


def _check(
    interpreter: Interpreter, cls: Class, call: ast.Call, functions: Sequence[Function]
) -> None:
    """Report a call that binds to none of the functions."""
    first, whys = functions[0], []
    for function in functions:
        signature = signature_of(function.node)
        whys.append(misfit(shape_of(call), signature.without_first()) if signature else "")
    if all(whys):
        need = Need("call", first.module.name, first.node.name, cls.module, call.lineno)
        where = first.module.where(first.node)
        reason = f"{first.node.name}() of {where}, which replaces the method, {whys[0]}"
        interpreter.fault("TypeError", need, reason, first.module.tree.name)


def _under_conditions(cls: Class) -> Iterator[ast.AST]:
    """Yield what a run may not come to: other methods than those of each step, and choices."""
    for method in cls.node.body:
        if isinstance(method, ast.FunctionDef) and method.name in _EACH_STEP:
            choices = (node for node in walk(method)[1:] if isinstance(node, _CHOICES))
            for choice in choices:
                yield from walk(choice)
        else:
            yield from walk(method)
