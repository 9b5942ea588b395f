"""A user's own program, linked against the packages that it imports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Fault, Faults
from grpoenv.linker.modules import Module
from grpoenv.linker.overrides import check_overrides
from grpoenv.linker.platforms import Platform
from grpoenv.linker.room import roomy
from grpoenv.linker.values import Class, Function
from grpoenv.linker.world import World
from grpoenv.source_tree import SourceTree

__all__ = ["ProgramTree", "link_program"]

_MODULE = "grpoenv_user_program"
_NAME = NormalizedName("your-program")


@dataclass(frozen=True)
class ProgramTree:
    """A program as if it were a package of one module; ``place`` is where the user has it."""

    text: str
    place: str

    @property
    def name(self) -> NormalizedName:
        """A name that no package has."""
        return _NAME

    @property
    def version(self) -> Version:
        """None that counts."""
        return Version("0")

    def paths(self) -> Sequence[str]:
        """Return the one module."""
        return [f"{_MODULE}.py"]

    def read(self, path: str) -> bytes:
        """Return the program."""
        return self.text.encode()

    def locate(self, path: str) -> str:
        """Return where the user has it."""
        return self.place


def link_program(
    program: ProgramTree, trees: Iterable[SourceTree], platform: Platform | None = None
) -> list[Fault]:
    """Return what ``program`` takes from ``trees`` and is certainly not there, in order.

    The packages themselves are not followed: what their own imports lack is not the program's.
    """
    with roomy():
        faults = Faults()
        world = World([*trees, program], platform=platform)
        interpreter = Interpreter(world, frozenset([program.name]), faults)
        interpreter.begin(_MODULE)
        _follow_functions(interpreter)
        with interpreter.unsure():
            check_overrides(interpreter, frozenset([program.name]))
    return [fault for fault in faults.found.values() if not fault.caught]


def _follow_functions(interpreter: Interpreter) -> None:
    module = interpreter.world.module(_MODULE)
    if isinstance(module, Module):
        for name in module.bindings:
            found = interpreter.world.lookup(_MODULE, name)
            if isinstance(found, (Function, Class)) and found.module is module:
                interpreter.follow_statement(found.node, module)
