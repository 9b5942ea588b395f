"""The forwards of peft's linear layers, whose source unsloth_zoo copies into files of its own.

It takes every class named ``Linear...`` or ``...Linear`` that a module of ``peft.tuners.lora`` has,
its own or imported, and gives the copy the names of that module. So a forward that is found through
another module than its own, which depends on the order of the folder's files, leaves the names
behind that only its own module has. Lines that are looked for by their text are cut out of it.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from textwrap import dedent

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Need
from grpoenv.linker.modules import Module
from grpoenv.linker.syntax import FunctionNode, body_of, walk
from grpoenv.linker.trainer import WRITER, names_in
from grpoenv.linker.values import Class, Function

__all__ = ["check_adapters"]

_COPIER = "patch_lora_forwards"
_LAYERS = "peft.tuners.lora"
_NAMED = "Linear"


def check_adapters(interpreter: Interpreter) -> None:
    """Report the copied forwards that read a name which is not copied with them."""
    world = interpreter.world
    writer = world.module(WRITER)
    if not isinstance(writer, Module) or not isinstance(world.module(_LAYERS), Module):
        return
    copier = world.lookup(WRITER, _COPIER)
    if not isinstance(copier, Function):
        return
    cut = set(_looked_for(copier.node))
    given = set(dir(builtins)).union(*map(names_in, set(writer.texts) - cut))
    for layer, through in _layers(interpreter):
        forward = interpreter.find_member(layer, "forward")
        if isinstance(forward, Function):
            for name in sorted(_left_behind(forward, cut) - given - through.bindings.keys()):
                need = Need(
                    "copied",
                    forward.module.name,
                    f"{layer.node.name}.forward",
                    writer,
                    copier.node.lineno,
                )
                reason = (
                    f"{name}, which {forward.module.where(forward.node)} reads, is not in the copy "
                    f"that is made of {through.where()}"
                )
                interpreter.fault("NameError", need, reason, forward.module.tree.name)


def _layers(interpreter: Interpreter) -> Iterator[tuple[Class, Module]]:
    """Yield each linear layer with every module that has it."""
    world = interpreter.world
    for name in sorted(world.submodules(_LAYERS)):
        module = world.module(name)
        if name.count(".") == _LAYERS.count(".") + 1 and isinstance(module, Module):
            for bound in module.bindings:
                layer = world.lookup(name, bound)
                if isinstance(layer, Class) and (
                    bound.startswith(_NAMED) or bound.endswith(_NAMED)
                ):
                    yield layer, module


def _looked_for(copier: FunctionNode) -> Iterator[str]:
    """Yield the texts that ``source.find(text)`` looks for, to cut out the line they begin."""
    texts = {
        target.id: node.value.value
        for node in walk(copier)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for call in walk(copier):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args:
            sought = call.args[0]
            if call.func.attr == "find" and isinstance(sought, ast.Name) and sought.id in texts:
                yield texts[sought.id]


def _left_behind(forward: Function, cut: set[str]) -> set[str]:
    """Return the names that the copy reads and that only the forward or its module binds."""
    node = forward.node
    lines = forward.module.text.split("\n")[node.lineno - 1 : node.end_lineno]
    kept = [line for line in lines if not line.strip().startswith(tuple(cut))]
    copy = ast.parse(dedent("\n".join(kept))).body[0] if len(kept) < len(lines) else node
    assert isinstance(copy, (ast.FunctionDef, ast.AsyncFunctionDef))
    read = {
        each.id
        for statement in copy.body
        for each in walk(statement)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
    }
    return (read - body_of(copy).local) & (body_of(node).local | forward.module.bindings.keys())
