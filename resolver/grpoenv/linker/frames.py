"""Where names are looked up."""

from __future__ import annotations

from dataclasses import dataclass, field

from grpoenv.linker.modules import Module
from grpoenv.linker.values import Class, Value

__all__ = ["Frame"]


@dataclass(eq=False)
class Frame:
    """Where names are looked up: a module's top level, or a function or class inside one.

    ``local`` are the names that the function binds itself; what is not in ``names`` of them is
    unknown. ``missing`` are names that a copied source left behind, with the module it is from;
    ``batch`` tells that code there works on a batch, which is never empty; ``owner`` is the class
    that a method is from.
    """

    module: Module
    names: dict[str, Value] | None = None
    local: frozenset[str] = frozenset()
    parent: Frame | None = None
    depth: int = 0
    is_class: bool = False
    missing: dict[str, Module] = field(default_factory=dict)
    batch: bool = False
    owner: Class | None = None

    @property
    def handles_batch(self) -> bool:
        """Tell whether this is code that works on a batch, or is inside such code."""
        return self.batch or (self.parent is not None and self.parent.handles_batch)
