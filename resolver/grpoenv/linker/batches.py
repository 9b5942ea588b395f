"""What unsloth's loss expects of a batch, and what trl's trainer makes of one.

Up to trl 0.14 ``_prepare_inputs`` hands the list of examples on and ``compute_loss`` generates; from
0.15 on the batch is a dictionary of tensors by then. unsloth replaces ``compute_loss`` alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Need
from grpoenv.linker.modules import Module
from grpoenv.linker.syntax import FunctionNode, walk
from grpoenv.linker.values import Class, Function

__all__ = ["check_batches"]

_TRAINER = "trl.trainer.grpo_trainer"
_PARTS = "unsloth.models.rl_replacements"
_MAKER = "grpo_trainer_compute_loss"


def check_batches(interpreter: Interpreter) -> None:
    """Report a loss that reads a batch by names where the trainer leaves it a list."""
    world = interpreter.world
    parts = world.module(_PARTS)
    if not isinstance(parts, Module) or not isinstance(world.module(_TRAINER), Module):
        return
    trainer, maker = world.lookup(_TRAINER, "GRPOTrainer"), world.lookup(_PARTS, _MAKER)
    if not isinstance(trainer, Class) or not isinstance(maker, Function):
        return
    prepare = interpreter.find_member(trainer, "_prepare_inputs")
    line = next(_lines_by_name(maker.node), 0)
    if line and isinstance(prepare, Function) and _hands_on(prepare.node):
        need = Need("result", _TRAINER, "GRPOTrainer._prepare_inputs", parts, line)
        reason = (
            f"{prepare.module.where(prepare.node)} hands on the list of examples (list indices must "
            "be integers or slices, not str)"
        )
        interpreter.fault("TypeError", need, reason, prepare.module.tree.name)


def _lines_by_name(maker: FunctionNode) -> Iterator[int]:
    """Yield the lines of the replaced ``compute_loss`` that read its batch by a name."""
    for method in walk(maker):
        if isinstance(method, ast.FunctionDef) and method.name == "compute_loss":
            batch = method.args.args[2].arg if len(method.args.args) > 2 else ""
            for node in walk(method):
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    named = isinstance(node.value, ast.Name) and node.value.id == batch
                    if named and isinstance(node.slice.value, str):
                        yield node.lineno


def _hands_on(method: FunctionNode) -> bool:
    """Tell whether a method does nothing but return what it is given."""
    only = method.body[-1]
    given = method.args.args[1].arg if len(method.args.args) > 1 else ""
    documented = len(method.body) == 2 and isinstance(method.body[0], ast.Expr)
    if len(method.body) > 1 and not documented:
        return False
    return (
        isinstance(only, ast.Return)
        and isinstance(only.value, ast.Name)
        and (only.value.id == given)
    )
