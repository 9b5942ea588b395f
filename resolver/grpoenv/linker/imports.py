"""What importing a module does, and the names that statements take from modules."""

from __future__ import annotations

import ast

from packaging.utils import NormalizedName

from grpoenv.linker.bindings import Bindings
from grpoenv.linker.faults import Faults, Need, Phase
from grpoenv.linker.flow import Flow
from grpoenv.linker.frames import Frame
from grpoenv.linker.modules import Module, Opaque
from grpoenv.linker.reach import Visits
from grpoenv.linker.standard import STANDARD
from grpoenv.linker.values import UNKNOWN, Absent, ModuleRef, Unknown, Value
from grpoenv.linker.world import World

__all__ = ["Imports"]


class Imports(Bindings):
    """Follows modules when they are imported, each as often as more can be found in it.

    What options lead to is followed in the packages ``with_options`` alone.
    """

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world, follows, faults)
        self.with_options: frozenset[NormalizedName] = frozenset()
        self._imported: dict[str, Visits] = {}

    def import_module(self, name: str) -> None:
        """Follow the import of a module and of the packages above it."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            self._run_module(".".join(parts[:end]))

    def _run_module(self, name: str) -> None:
        tree = self.world.tree_of(name)
        if tree is None or tree.name not in self.follows:
            return
        if self.phase is Phase.OPTION and tree.name not in self.with_options:
            return
        if not self.is_new(self._imported.setdefault(name, [])):
            return
        module = self.world.module(name)
        if isinstance(module, Opaque) and not module.sourceless and self.phase is not Phase.OPTION:
            self.faults.opaque(module)
        if not isinstance(module, Module):
            return
        namespace: dict[str, Value] = {}
        first = name not in self.world.namespaces
        if first:
            self.world.namespaces[name] = namespace
        frame = Frame(module, self.world.namespaces[name])
        calls, self._calls = self._calls, 0
        try:
            self.block(module.body, frame)
        except RecursionError:
            self.faults.opaque(Opaque(name, f"{module.where()} is nested too deeply"))
        finally:
            self._calls = calls

    def _do_Import(self, node: ast.Import, frame: Frame) -> Flow:
        for alias in node.names:
            self._require_module(alias.name, node, frame)
            self.import_module(alias.name)
            top = alias.name.partition(".")[0]
            bound = ModuleRef(alias.name if alias.asname else top)
            self.bind(alias.asname or top, bound, frame)
        return Flow.ON

    def _do_ImportFrom(self, node: ast.ImportFrom, frame: Frame) -> Flow:
        source = frame.module.resolve_relative(node.module, node.level)
        if source == "__future__":
            return Flow.ON
        self._require_module(source, node, frame)
        self.import_module(source)
        for alias in node.names:
            if alias.name == "*":
                self._bind_star(source, frame)
            else:
                value = self._take(source, alias.name, node, frame)
                self.bind(alias.asname or alias.name, value, frame)
        return Flow.ON

    def _require_module(self, name: str, node: ast.AST, frame: Frame) -> None:
        there = self.world.has_module(name)
        if there is False and name not in self.world.open_modules:
            tree = self.world.tree_of(name)
            if tree is None and not self.sure:
                self.lack()
                return
            reason = f"there is no module {name}" if tree else f"{name} is not installed"
            missing = name
            while tree and "." in missing and not self.world.has_module(missing.rpartition(".")[0]):
                missing = missing.rpartition(".")[0]
            need = Need("module", missing, "", frame.module, getattr(node, "lineno", 0))
            self.fault("ModuleNotFoundError", need, reason, tree.name if tree else missing)
        elif there:
            self.faults.met("module", name, frame.module)

    def _take(self, source: str, name: str, node: ast.AST, frame: Frame) -> Value:
        """Return what ``from source import name`` gives."""
        tree = self.world.tree_of(source)
        if tree is None:
            if python := self.world.lacks_standard(f"{source}.{name}"):
                need = Need("name", source, name, frame.module, getattr(node, "lineno", 0))
                self.fault("ImportError", need, f"{python} does not have it", STANDARD)
            return self._external(f"{source}.{name}")
        if self.world.module(source) is None and source not in self.world.provided:
            return UNKNOWN
        if (target := self.world.lazy_target(source, name)) is not None:
            self.import_module(target)
        found = self.world.lookup(source, name)
        if isinstance(found, ModuleRef) and found.name == f"{source}.{name}":
            self.import_module(found.name)
        if not isinstance(found, Absent):
            self.faults.met("name", f"{source}:{name}", frame.module, found)
            return found
        if found.conditional and not self.sure:
            return UNKNOWN  # what leads here may go by the same condition
        need = Need("name", source, name, frame.module, getattr(node, "lineno", 0))
        reason = f"{found.where} does not define {name}"
        self.fault("ImportError", need, reason, tree.name)
        return UNKNOWN

    def _bind_star(self, source: str, frame: Frame) -> None:
        """Bind what a star import gives, as far as it is known already."""
        module = self.world.module(source)
        if frame.names is None or not isinstance(module, Module):
            return
        public = self.world.public_names(module)
        names = public if public is not None else self.world.namespaces.get(source, {})
        for name in names:
            if public is None and name.startswith("_"):
                continue
            found = self.world.lookup(source, name)
            if not isinstance(found, (Absent, Unknown)):
                frame.names[name] = found

    def _module_attribute(self, module: ModuleRef, name: str, node: ast.AST, frame: Frame) -> Value:
        if (target := self.world.lazy_target(module.name, name)) is not None:
            self.import_module(target)
        return super()._module_attribute(module, name, node, frame)
