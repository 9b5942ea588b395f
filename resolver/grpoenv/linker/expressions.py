"""Follow expressions: the choices in them, and names and keys that are not there."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from packaging.utils import NormalizedName

from grpoenv.linker.evaluate import truth_of
from grpoenv.linker.faults import Faults, Need, Phase
from grpoenv.linker.flow import Thrown
from grpoenv.linker.frames import Frame
from grpoenv.linker.modules import Module
from grpoenv.linker.reach import Reach
from grpoenv.linker.standard import STANDARD
from grpoenv.linker.stubs import MODULE
from grpoenv.linker.syntax import children, walk
from grpoenv.linker.values import (
    UNKNOWN,
    Absent,
    Class,
    Const,
    Keywords,
    ModuleRef,
    Registry,
    Unknown,
    Value,
)
from grpoenv.linker.world import World

__all__ = ["Expressions"]

_TRANSFORMERS = NormalizedName("transformers")
_MODELS = frozenset(("model", "processing_class", "ref_model", "tokenizer"))
"""What trainers call an object whose class transformers has."""
_MODULE = "torch.nn.modules.module"
"""Where the class is that every model builds on."""


class Expressions(Reach):
    """Follows expressions part by part, as Python evaluates them."""

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world, follows, faults)
        self._line = 0

    def eval_other(self, node: ast.expr, frame: Frame) -> Value:
        """Follow an expression of which nothing can be known, and everything in it."""
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            return self._comprehension(node, frame)
        for child in children(node):
            if isinstance(child, ast.expr):
                self.eval(child, frame)
        return UNKNOWN

    def missing_name(self, name: str, left_in: Module, frame: Frame) -> Value:
        """Report a name that a copied source reads and that is not copied with it."""
        need = Need("copied", left_in.name, name, left_in, self._line)
        reason = f"{name} stays behind in {left_in.where()}"
        self.fault("NameError", need, reason, left_in.tree.name)
        return UNKNOWN

    def _eval_Name(self, node: ast.Name, frame: Frame) -> Value:
        if not isinstance(node.ctx, ast.Load):
            return UNKNOWN
        self._line = node.lineno
        return self.name(node.id, frame)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, frame: Frame
    ) -> Value:
        local = frozenset(
            name.id
            for generator in node.generators
            for name in walk(generator.target)
            if isinstance(name, ast.Name)
        )
        self.eval(node.generators[0].iter, frame)
        inner = Frame(frame.module, {}, local, frame, frame.depth + 1)
        with self.unsure():
            try:
                for child in children(node):
                    if isinstance(child, ast.expr):
                        self.eval(child, inner)
            except Thrown:
                pass
        return UNKNOWN

    def _eval_BoolOp(self, node: ast.BoolOp, frame: Frame) -> Value:
        stops_at = isinstance(node.op, ast.Or)
        value: Value = UNKNOWN
        for position, operand in enumerate(node.values):
            value = self.eval(operand, frame)
            truth = truth_of(value)
            if truth is stops_at:
                return value
            if truth is None:
                return self._rest(node.values[position + 1 :], stops_at, frame)
        return value

    def _rest(self, operands: Sequence[ast.expr], stops_at: bool, frame: Frame) -> Value:
        """Follow the operands behind one that may have decided already."""
        with self.unsure():
            try:
                for operand in operands:
                    if truth_of(self.eval(operand, frame)) is stops_at:
                        return Const(stops_at)
            except Thrown:
                pass
        return UNKNOWN

    def _eval_IfExp(self, node: ast.IfExp, frame: Frame) -> Value:
        truth = truth_of(self.eval(node.test, frame))
        if truth is not None:
            return self.eval(node.body if truth else node.orelse, frame)
        values: list[Value] = []
        branches = []
        for branch in (node.body, node.orelse):
            with self.unsure() as certain:
                try:
                    values.append(self.eval(branch, frame))
                except Thrown:
                    values.append(UNKNOWN)
            branches.append(certain)
        self.settle(branches)
        first, second = values
        return first if isinstance(first, Const) and first == second else UNKNOWN

    def _module_attribute(self, module: ModuleRef, name: str, node: ast.AST, frame: Frame) -> Value:
        """Return an attribute of a module; one that only C may give torch where it is not listed.

        That is held to be missing where an import certainly takes it: what other makers give torch,
        such as ``torch.hpu``, is asked for first.
        """
        value = super()._module_attribute(module, name, node, frame)
        certain = self.sure and self.phase is Phase.IMPORT
        if module.name == MODULE and certain and isinstance(value, Unknown):
            if self.world.torch_lacks(name):
                return self.missing_attribute(module, name, Absent(MODULE), node, frame)
        return value

    def missing_attribute(
        self, module: ModuleRef, name: str, absent: Absent, node: ast.AST, frame: Frame
    ) -> Value:
        """Note that an attribute is taken of a module that does not have it."""
        tree = self.world.tree_of(module.name)
        own = self.world.tree_of(frame.module.name)
        if own is not tree and not isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
            need = Need("attribute", module.name, name, frame.module, getattr(node, "lineno", 0))
            reason = f"{absent.where} does not define {name}"
            self.fault("AttributeError", need, reason, tree.name if tree else STANDARD)
        return UNKNOWN

    def nobody_has(self, holder: ast.expr, name: str, frame: Frame) -> bool:
        """Tell whether ``holder`` is a model or a tokenizer, and none of them has an attribute.

        They go by the names that trainers give them, in a default run alone: elsewhere a model may
        be one of another library, or have adapters around it.
        """
        if not self.sure or self.phase is not Phase.RUN or frame.module.tree.name == _TRANSFORMERS:
            return False
        if isinstance(holder, ast.Attribute) and isinstance(holder.value, ast.Name):
            called = holder.attr if holder.value.id == "self" else ""
        else:
            called = holder.id if isinstance(holder, ast.Name) else ""
        if called not in _MODELS:
            return False
        module = self.world.module(_MODULE)
        of_torch = isinstance(module, Module) and name in module.text
        return not of_torch and self.world.nobody_knows(name, _TRANSFORMERS)

    def missing_everywhere(self, name: str, node: ast.Attribute, frame: Frame) -> Value:
        """Report an attribute of a model or a tokenizer of which no package knows."""
        holder = ast.unparse(node.value)
        need = Need("attribute", holder, name, frame.module, node.lineno)
        self.fault("AttributeError", need, "no source of transformers knows it", _TRANSFORMERS)
        return UNKNOWN

    def missing_member(self, cls: Class, name: str, node: ast.AST, frame: Frame) -> Value:
        """Report an attribute that a class of another package, or its base there, does not have."""
        others = (
            each for each in (cls, *self.line_of(cls)) if each.module.tree is not frame.module.tree
        )
        lacking = next(others, None)
        if lacking is not None and isinstance(getattr(node, "ctx", None), ast.Load):
            what = f"{lacking.node.name}.{name}"
            line = getattr(node, "lineno", 0)
            need = Need("attribute", lacking.module.name, what, frame.module, line)
            reason = f"{lacking.module.where(lacking.node)} does not define {name}"
            self.fault("AttributeError", need, reason, lacking.module.tree.name)
        return UNKNOWN

    def _missing_item(self, registry: Registry, key: str, node: ast.AST, frame: Frame) -> Value:
        foreign = registry.module.tree is not frame.module.tree
        if foreign and isinstance(getattr(node, "ctx", None), ast.Load):
            if filler := self.world.filled_elsewhere(registry):
                return Unknown(f"{filler} fills it too")
            need = Need(
                "key",
                registry.module.name,
                f"{registry.name}[{key!r}]",
                frame.module,
                getattr(node, "lineno", 0),
            )
            reason = f"{registry.module.where()} does not define it"
            self.fault("KeyError", need, reason, registry.module.tree.name)
        return UNKNOWN

    def _item(self, registry: Registry, key: str, node: ast.AST, frame: Frame) -> Value:
        if registry.module.tree is frame.module.tree and registry.module is frame.module:
            return self._collected(registry, key)
        return super()._item(registry, key, node, frame)

    def keyword(self, keywords: Keywords, key: str, node: ast.AST, frame: Frame) -> None:
        """Report a keyword that a function reads and its caller does not pass."""
        if keywords.open or key in keywords.names:
            return
        line = getattr(node, "lineno", 0)
        need = Need(
            "keyword", frame.module.name, f"{keywords.function}[{key!r}]", frame.module, line
        )
        reason = f"{keywords.caller.where()} calls {keywords.function}() without it"
        self.fault("KeyError", need, reason, keywords.caller.tree.name)

    def _collected(self, registry: Registry, key: str) -> Value:
        items = self.world.items(registry)
        if isinstance(items, Unknown) or key not in items:
            return UNKNOWN
        return self.world.evaluator.eval(items[key], Frame(registry.module))
