"""The default run of pairs, many at a time: of a release only what decides it is kept.

A release is reduced once to the modules that write the trainer and the functions that go into it
(`run_sources`). The default run of a pair is then followed in these alone (`default_run`), up to
what certainly ends it. Of trl only the fields of its GRPOConfig are looked at; of everything else
nothing is known, and nothing is held against a pair.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Fault, Faults, Need, Phase
from grpoenv.linker.link import FOLLOWED
from grpoenv.linker.modules import Module, Opaque, parse
from grpoenv.linker.room import roomy
from grpoenv.linker.syntax import Body, FunctionNode, body_of
from grpoenv.linker.trainer import (
    LOADER,
    OTHER_LOADERS,
    SETS_VARIABLE,
    WRITER,
    follow_default_run,
    names_in,
)
from grpoenv.linker.values import ModuleRef
from grpoenv.linker.world import World
from grpoenv.source_tree import SourceTree

__all__ = ["RunOutcome", "RunSources", "config_sources", "default_run", "run_sources"]

_WHOLE = ("unsloth_zoo.rl_replacements", "unsloth.models.rl_replacements", "unsloth.models.rl")
_CONFIG = "trl/trainer/grpo_config.py"


@dataclass(eq=False)
class RunSources:
    """What is kept of a release: a source tree of few modules, each parsed once."""

    name: NormalizedName
    version: Version
    files: Mapping[str, str] = field(repr=False)
    modules: dict[str, Module | Opaque] = field(default_factory=dict, repr=False)

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

    @property
    def versions(self) -> dict[NormalizedName, Version]:
        """Nothing: what is kept of different releases may be the same."""
        return {}

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
            gc.freeze()  # it stays, and to look for cycles in it takes a tenth of the time
        return tree.modules[path]

    def body_of(self, node: FunctionNode) -> Body:
        return _body_of(node)


@cache
def _body_of(node: FunctionNode) -> Body:
    return body_of(node)


class _FailedError(Exception):
    """A default run has certainly failed; what it would meet later does not matter."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class _FirstFailure(Interpreter):
    """Follows a default run up to what certainly ends it."""

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world, follows, faults)
        self._written_to = faults

    def fault(self, exception: str, need: Need, reason: str, provider: str) -> None:
        super().fault(exception, need, reason, provider)
        self._stop(self._certain[-1:])

    def settle(self, branches: Sequence[Sequence[Fault]]) -> None:
        super().settle(branches)
        if all(branches):
            self._stop(branches[0])

    def _stop(self, found: Sequence[Fault]) -> None:
        aside = self.faults is not self._written_to  # a question that may not be asked
        if found and self.sure and not aside and self.phase is Phase.RUN:
            raise _FailedError(found[0])


def run_sources(tree: SourceTree) -> RunSources:
    """Reduce a release of unsloth or of the zoo to what decides a default run.

    Besides whole modules that is what the others set in the environment, and the names that the
    zoo's compiler gives to every module that it writes.
    """
    files: dict[str, str] = {}
    others: set[str] = set()
    for path in sorted(tree.paths()):
        name = path.removesuffix(".py").replace("/", ".")
        if name in _WHOLE:
            files[path] = _text(tree, path)
        elif name in (LOADER, WRITER):
            files[path] = _settings(tree, path, name)
        elif path.endswith(".py") and name not in OTHER_LOADERS:
            others.update(name for name, _ in SETS_VARIABLE.findall(_text(tree, path)))
    package = str(tree.name).replace("-", "_")
    files[f"{package}/environment.py"] = "".join(
        f"os.environ['{n}'] = None\n" for n in sorted(others)
    )
    return RunSources(tree.name, tree.version, files)


def config_sources(trl: SourceTree) -> RunSources:
    """Reduce a release of trl to the fields of its GRPOConfig."""
    return RunSources(trl.name, trl.version, {_CONFIG: _text(trl, _CONFIG)})


def _text(tree: SourceTree, path: str) -> str:
    return tree.read(path).decode("utf-8", "replace")


def _settings(tree: SourceTree, path: str, name: str) -> str:
    """Return what a module sets in the environment and, of the zoo's compiler, which names it writes."""
    sets = SETS_VARIABLE.finditer(_text(tree, path))
    lines = [f"os.{found[0].strip()}" + ("" if found[2] else "None") for found in sets]
    module = parse(tree, path, name, is_package=False)
    if name == WRITER and isinstance(module, Module):
        lines.append(f"WRITTEN = {_imports(module)!r}")
    return "\n".join(lines)


def _imports(writer: Module) -> str:
    names = {name: value for text in writer.texts for name, value in names_in(text).items()}
    return "\n".join(
        f"import {name}" if isinstance(value, ModuleRef) else f"from _ import {name}"
        for name, value in sorted(names.items())
    )


def default_run(unsloth: RunSources, zoo: RunSources, config: RunSources | None) -> RunOutcome:
    """Follow the default run of a pair, with a trl whose GRPOConfig has the fields of ``config``."""
    faults = Faults()
    with roomy():
        world = _KeptWorld([unsloth, zoo, *([config] if config else [])])
        for path in (*unsloth.files, *zoo.files):
            world.module(path.removesuffix(".py").replace("/", "."))
        interpreter = _FirstFailure(world, FOLLOWED, faults)
        for name in _WHOLE:
            interpreter.begin(name)
        try:
            follow_default_run(interpreter)
        except _FailedError as failed:
            return RunOutcome(failed.fault, ())
    met = (fault for fault in faults.found.values() if fault.phase is Phase.RUN)
    return RunOutcome(None, tuple(fault for fault in met if not fault.caught))
