"""The default run of pairs, many at a time: of a release only what decides it is kept.

A release is reduced once to the modules that write the trainer and the functions that go into it
(`run_sources`). The default run of a pair is then followed in these alone (`default_run`): of trl,
transformers and the rest of both packages nothing is known, and nothing is held against a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Fault, Faults, Phase
from grpoenv.linker.link import FOLLOWED, roomy
from grpoenv.linker.modules import Module, Opaque, parse
from grpoenv.linker.sources import SourceTree
from grpoenv.linker.syntax import Body, FunctionNode
from grpoenv.linker.trainer import SETS_VARIABLE, WRITER, follow_default_run, names_in
from grpoenv.linker.values import ModuleRef
from grpoenv.linker.world import World

__all__ = ["RunOutcome", "RunSources", "default_run", "run_sources"]

_WHOLE = ("unsloth_zoo.rl_replacements", "unsloth.models.rl_replacements", "unsloth.models.rl")


@dataclass(eq=False)
class RunSources:
    """What is kept of a release: a source tree of few modules, each parsed once."""

    name: NormalizedName
    version: Version
    files: Mapping[str, str] = field(repr=False)
    modules: dict[str, Module | Opaque] = field(default_factory=dict, repr=False)
    bodies: dict[FunctionNode, Body] = field(default_factory=dict, repr=False)

    def paths(self) -> list[str]:
        """Return the path of every module that is kept."""
        return list(self.files)

    def read(self, path: str) -> bytes:
        """Return the source of one module."""
        return self.files[path].encode()

    def locate(self, path: str) -> str:
        """Return the path itself."""
        return path


@dataclass(frozen=True)
class RunOutcome:
    """What a default run of a pair meets.

    ``failure`` certainly ends it; ``doubts`` may, where no failure is certain: they depend on what
    is not known of the pair.
    """

    failure: Fault | None
    doubts: tuple[Fault, ...]


class _KeptWorld(World):
    """The kept modules of two releases; of everything else nothing is known."""

    def has_module(self, name: str) -> bool | None:
        return super().has_module(name) or None

    def module(self, name: str) -> Module | Opaque | None:
        found = super().module(name)
        if found is None and self.tree_of(name) is not None:
            return Opaque(name, f"{name} is not kept")
        return found

    def parsed_from(
        self, tree: SourceTree, path: str, name: str, is_package: bool
    ) -> Module | Opaque:
        assert isinstance(tree, RunSources)
        if path not in tree.modules:
            tree.modules[path] = super().parsed_from(tree, path, name, is_package)
        return tree.modules[path]

    def body_of(self, node: FunctionNode) -> Body:
        bodies = next(tree.bodies for tree in self.trees.values() if isinstance(tree, RunSources))
        if node not in bodies:
            bodies[node] = super().body_of(node)
        return bodies[node]


def run_sources(tree: SourceTree) -> RunSources:
    """Reduce a release to what decides a default run.

    Besides whole modules that is what the others set in the environment, and the names that the
    zoo's compiler gives to every module that it writes.
    """
    files: dict[str, str] = {}
    for path in sorted(tree.paths()):
        if path.endswith(".py"):
            text = _kept(tree, path)
            if text:
                files[path] = text
    return RunSources(tree.name, tree.version, files)


def _kept(tree: SourceTree, path: str) -> str:
    name = path.removesuffix(".py").replace("/", ".")
    module = parse(tree, path, name, is_package=False) if name in (*_WHOLE, WRITER) else None
    if name in _WHOLE:
        return module.text if isinstance(module, Module) else ""
    kept = SETS_VARIABLE.finditer(tree.read(path).decode("utf-8", "replace"))
    lines = [f"os.{found[0].strip()}" + ("" if found[2] else "None") for found in kept]
    if isinstance(module, Module):
        lines.append(f"WRITTEN = {_imports(module)!r}")
    return "\n".join(lines)


def _imports(writer: Module) -> str:
    names = {name: value for text in writer.texts for name, value in names_in(text).items()}
    return "\n".join(
        f"import {name}" if isinstance(value, ModuleRef) else f"from _ import {name}"
        for name, value in sorted(names.items())
    )


def default_run(unsloth: RunSources, zoo: RunSources) -> RunOutcome:
    """Follow the default run of a pair."""
    faults = Faults()
    with roomy():
        world = _KeptWorld([unsloth, zoo])
        for name in (path.removesuffix(".py") for path in (*unsloth.files, *zoo.files)):
            world.module(name.replace("/", "."))
        interpreter = Interpreter(world, FOLLOWED, faults)
        for name in _WHOLE:
            interpreter.begin(name)
        follow_default_run(interpreter)
    met = [
        fault for fault in faults.found.values() if fault.phase is Phase.RUN and not fault.caught
    ]
    certain = next((fault for fault in met if fault.sure), None)
    return RunOutcome(certain, () if certain else tuple(met))
