"""Link packages: follow what a user does first, and say what is certainly broken."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.utils import NormalizedName

from grpoenv.linker.adapters import check_adapters
from grpoenv.linker.batches import check_batches
from grpoenv.linker.execute import Interpreter
from grpoenv.linker.faults import Fault, Faults, Phase
from grpoenv.linker.overrides import check_overrides
from grpoenv.linker.platforms import Platform
from grpoenv.linker.replaced import check_replaced_methods
from grpoenv.linker.room import roomy
from grpoenv.linker.trainer import follow_default_run
from grpoenv.linker.unreachable import reachable
from grpoenv.linker.world import World
from grpoenv.source_tree import SourceTree

__all__ = ["FOLLOWED", "Linkage", "link"]

FOLLOWED = frozenset(
    NormalizedName(name)
    for name in (
        "unsloth",
        "unsloth-zoo",
        "trl",
        "transformers",
        "peft",
        "accelerate",
        "datasets",
        "huggingface-hub",
        "bitsandbytes",
        "vllm",
        "deepspeed",
        "kernels",
        "liger-kernel",
        "llm-blender",
        "mergekit",
        "torchao",
        "xformers",
    )
)
"""The packages that are followed statement by statement; of others only the names are read."""

_WITH_OPTIONS = frozenset(
    NormalizedName(name) for name in ("unsloth", "unsloth-zoo", "trl", "peft")
)
"""The packages whose other functions are followed too: what an option leads to."""

_OPTIONAL_STARTS = (
    ("liger-kernel", "liger_kernel.transformers.monkey_patch"),
    ("liger-kernel", "liger_kernel.chunked_loss"),
    ("xformers", "xformers.ops"),
)
"""What ``use_liger_kernel`` and the attention of a model lead to."""

_OPTION_MODULES = (
    ("transformers", "transformers.integrations.hub_kernels"),
    ("transformers", "transformers.integrations.peft"),
    ("transformers", "transformers.trainer"),
)
"""Modules of which everything is followed: what adapters, checkpoints and kernels lead to."""

_STARTS = (
    ("unsloth", "unsloth"),
    ("trl", "trl"),
    ("trl", "trl.trainer.grpo_trainer"),
    ("peft", "peft"),
    ("accelerate", "accelerate"),
    ("transformers", "transformers"),
    ("torch", "transformers.modeling_utils"),
    ("datasets", "datasets"),
    ("bitsandbytes", "bitsandbytes"),
    ("vllm", "vllm"),
    ("vllm", "vllm.entrypoints.llm"),
)
"""What a GRPO program imports, by the package without which it does not."""


@dataclass(frozen=True)
class Linkage:
    """What linking found.

    ``faults`` are the needs that are certainly not met, those of the import first, in the order in
    which Python would meet them; ``met`` counts the needs that hold, ``undecided`` gives a reason
    for each that cannot be told, ``unread`` for each module that could not be looked into.
    """

    faults: tuple[Fault, ...]
    met: int
    undecided: dict[tuple[str, str, str], str]
    unread: dict[str, str]
    modules: int
    paths: tuple[str, ...]


def link(
    trees: Iterable[SourceTree],
    *,
    platform: Platform | None = None,
    absent: frozenset[NormalizedName] = frozenset(),
    consumers: frozenset[NormalizedName] = frozenset(),
    starts: Iterable[tuple[str, str]] = _STARTS,
    options: bool = True,
    kind: type[World] = World,
) -> Linkage:
    """Link ``trees``; ``absent`` are packages that are certainly not installed beside them.

    ``starts`` are (package, module) pairs; each module is imported where its package is there.
    ``consumers`` are other packages of ``trees`` to follow: those that stand on the stack.
    Without ``options`` the functions that no import and no default run calls are left out. ``kind``
    may be a world that shares with others what they have parsed.
    """
    with roomy():
        world = kind(trees, platform=platform, absent=absent)
        faults = Faults()
        interpreter = Interpreter(world, FOLLOWED | consumers, faults)
        for package, module in starts:
            if NormalizedName(package) in world.trees and world.has_module(module):
                interpreter.begin(module)
        for module in world.top_modules(sorted(consumers)):
            interpreter.begin(module)
        follow_default_run(interpreter)
        check_replaced_methods(interpreter)
        check_batches(interpreter)
        others = _WITH_OPTIONS | consumers
        if options:
            interpreter.follow_the_rest(others)
            check_adapters(interpreter)
            others |= interpreter.follow_options(_OPTIONAL_STARTS)
            others |= interpreter.follow_modules(_OPTION_MODULES)
            check_overrides(interpreter, _WITH_OPTIONS | consumers)
        # Millions of syntax nodes are done with: to look for cycles in them costs as much again.
        gc.freeze()
    found = [
        fault
        for fault in faults.found.values()
        # what only an option leads to is told of these packages alone
        if fault.sure
        or fault.phase is Phase.IMPORT
        or {fault.need.consumer.tree.name, fault.provider} & others
    ]
    undecided = {k: v for k, v in faults.undecided.items() if k in faults.needs}
    return Linkage(
        faults=tuple(reachable(found, world.parsed)),
        met=len(faults.needs) - len(undecided),
        undecided=undecided,
        unread=faults.opaque_modules,
        modules=len(world.parsed),
        paths=tuple(module.where() for module in world.parsed),
    )
