"""The linker's verdict on sets of wheels, many at a time.

Most sets of a scan share most of their wheels, and to parse a wheel takes four times as long as to
follow it. So sets that are alike are judged one after the other in one process, which keeps what it
has parsed; and that process ends after some of them, because what linking leaves is never freed.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from packaging.utils import NormalizedName

import grpoenv.linker
from grpoenv.linker import Fault, Linkage, Platform, link
from grpoenv.linker.modules import Module, Opaque
from grpoenv.linker.standard import STANDARD
from grpoenv.linker.syntax import Body, FunctionNode
from grpoenv.linker.world import World
from grpoenv.scan.kept import Kept
from grpoenv.scan.sets import WheelSet
from grpoenv.source_tree import SourceTree
from grpoenv.update_network import effective_index
from grpoenv.wheels import (
    RangeClient,
    SpanStore,
    WheelError,
    WheelFile,
    WheelTree,
    fetch_sources,
    open_wheels,
)

__all__ = ["Judgement", "judge_sets", "judgement_of", "kept_judgement"]

_BATCH = 8
_HUBS = tuple(map(NormalizedName, ("transformers", "torch", "trl", "datasets", "unsloth-zoo")))
"""The packages by which sets are alike: those that take longest to parse."""


@dataclass(frozen=True)
class Judgement:
    """A verdict of ``grpoenv.releases``, and what it is about."""

    verdict: str
    exception: str = ""
    symbol: str = ""
    culprit: str = ""
    at: str = ""
    reason: str = ""


def judge_sets(
    sets: Sequence[WheelSet], python: str, *, workers: int
) -> Iterator[tuple[WheelSet, Judgement]]:
    """Yield the verdict on each set; ``python`` is a full version on Linux, x86_64."""
    ordered = sorted(sets, key=_likeness)
    batches = [
        (python, tuple(ordered[start : start + _BATCH])) for start in range(0, len(ordered), _BATCH)
    ]
    if not batches:
        return
    # A fresh interpreter for each batch: the threads that run uv do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(batches)), maxtasksperchild=1) as pool:
        for judged in pool.imap_unordered(_judge_batch, batches):
            yield from judged


def kept_judgement(found: WheelSet, python: str) -> Judgement | None:
    """Return what this linker said before of a set, None where it was not asked."""
    data = Kept("verdicts").get(*_key(found, python))
    return None if data is None else Judgement(**data)


def _likeness(found: WheelSet) -> tuple[str, ...]:
    return tuple(found.versions.get(name, "") for name in _HUBS)


class _SharingWorld(World):
    """Takes over what other worlds of this process have read of the same wheels."""

    _shared_modules: ClassVar[dict[tuple[str, str], Module | Opaque]] = {}
    _shared_bodies: ClassVar[dict[FunctionNode, Body]] = {}

    def parsed_from(
        self, tree: SourceTree, path: str, name: str, is_package: bool
    ) -> Module | Opaque:
        key = (tree.locate(path), name)
        if key not in self._shared_modules:
            self._shared_modules[key] = super().parsed_from(tree, path, name, is_package)
        return self._shared_modules[key]

    def body_of(self, node: FunctionNode) -> Body:
        if node not in self._shared_bodies:
            self._shared_bodies[node] = super().body_of(node)
        return self._shared_bodies[node]


def _judge_batch(batch: tuple[str, tuple[WheelSet, ...]]) -> list[tuple[WheelSet, Judgement]]:
    python, sets = batch
    kept, judged = Kept("verdicts"), []
    with closing(RangeClient(credentials=_index_address)) as client:
        opened: dict[str, WheelTree] = {}
        for found in sets:
            judgement = kept_judgement(found, python)
            if judgement is None:
                trees = _trees(found, client, opened)
                if isinstance(trees, Judgement):
                    judged.append((found, trees))  # not kept: it may pass
                    continue
                linkage = link(
                    list(trees.values()),
                    platform=Platform.named(python, "Linux", "x86_64"),
                    absent=found.absent,
                    options=False,
                    kind=_SharingWorld,
                )
                judgement = judgement_of(linkage, trees)
                kept.put(vars(judgement), *_key(found, python))
            judged.append((found, judgement))
    return judged


def _trees(
    found: WheelSet, client: RangeClient, opened: dict[str, WheelTree]
) -> Mapping[NormalizedName, WheelTree] | Judgement:
    new = [wheel for wheel in found.wheels if wheel.filename not in opened]
    trees, errors = open_wheels(new, client, SpanStore())
    for name, error in errors.items():
        return Judgement("unclear", reason=f"{name} cannot be looked into: {error.message}")
    try:
        fetch_sources(trees.values())
    except WheelError as error:
        return Judgement("unclear", reason=error.message)
    opened.update({tree.wheel.filename: tree for tree in trees.values()})
    return {wheel.name: opened[wheel.filename] for wheel in found.wheels}


def judgement_of(linkage: Linkage, trees: Mapping[NormalizedName, WheelTree]) -> Judgement:
    """Return the verdict that a linkage comes to: that of the first thing that is missing."""
    for phase in ("import", "run"):
        for fault in linkage.faults:
            if fault.sure and not fault.caught and fault.phase.value == phase:
                return _fault(fault, trees)
    for name, reason in linkage.unread.items():
        if NormalizedName(name.partition(".")[0].replace("_", "-")) in trees:
            return Judgement("unclear", reason=f"{name} cannot be looked into: {reason}")
    return Judgement("linked")


def _fault(fault: Fault, trees: Mapping[NormalizedName, WheelTree]) -> Judgement:
    consumer = fault.need.consumer.tree.name
    labels = [_label(name, trees) for name in dict.fromkeys([consumer, fault.provider])]
    return Judgement(
        fault.phase.value,
        exception=fault.exception,
        symbol=fault.need.what,
        culprit=" with ".join(labels),
        at=fault.need.where,
    )


def _label(name: str, trees: Mapping[NormalizedName, WheelTree]) -> str:
    if name == STANDARD:
        return "Python"
    tree = trees.get(NormalizedName(name))
    return f"{name} {tree.version}" if tree else f"{name.partition('.')[0]} (not installed)"


def _key(found: WheelSet, python: str) -> tuple[str, ...]:
    return (python, _linker_digest(), *sorted(found.absent), *map(_fingerprint, found.wheels))


def _fingerprint(wheel: WheelFile) -> str:
    return f"{wheel.filename} {wheel.sha256}"


@cache
def _linker_digest() -> str:
    """Return a digest of the linker's own sources: another linker may say another thing."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for source in sorted([Path(__file__), *Path(grpoenv.linker.__file__).parent.glob("*.py")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _index_address() -> str | None:
    address = effective_index(os.environ)
    return address.url if address else None
