"""The default GRPO run of every pair that imports, for ``benchmarks/pairs.py``.

What is kept of a release is written under its digest, so that releases that are the same in it are
followed once; each release of unsloth is followed with every kept zoo that it imports with, and the
outcomes are kept as well. trl
enters with the fields that GRPOConfig has in the oldest trl that the release of unsloth admits and
that has a GRPO trainer: a later trl has them, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from email.parser import HeaderParser
from functools import cache, partial
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.linker.run_pairs import RunSources, config_sources, default_run, run_sources
from grpoenv.pair_verdicts import RunVerdict, Verdict
from grpoenv.wheels import RangeClient, SpanStore, WheelFile, WheelTree, published_wheels

FIRST_GRPO = Version("0.14.0")
TRL = NormalizedName("trl")


@dataclass(frozen=True)
class Kept:
    """What decides the run of a release, by its digest; ``trl`` is the oldest that it admits."""

    digest: str
    trl: str = ""


def run_verdicts(
    kept: Path,
    unsloths: Sequence[WheelFile],
    zoos: Sequence[WheelFile],
    rows: Sequence[Sequence[Verdict | None]],
    index: str,
) -> list[list[RunVerdict | None]]:
    """Return the verdict on the default run of each pair whose verdict in ``rows`` is None."""
    with closing(RangeClient(credentials=lambda: index)) as client:
        trls = [w for w in published_wheels(TRL, index, client) if w.version >= FIRST_GRPO]
    with ProcessPoolExecutor() as pool:
        ours = list(pool.map(partial(kept_run, kept, index, trls), unsloths))
        theirs = list(pool.map(partial(kept_run, kept, index, []), zoos))
        wanted: dict[Kept, dict[str, None]] = {one: {} for one in ours}
        for one, row in zip(ours, rows, strict=True):
            wanted[one] |= {z.digest: None for z, v in zip(theirs, row, strict=True) if v is None}
        found = pool.map(partial(followed, kept), wanted, map(list, wanted.values()))
        outcomes = dict(zip(wanted, found, strict=True))
    return [
        [
            outcomes[one][zoo.digest] if verdict is None else None
            for zoo, verdict in zip(theirs, row, strict=True)
        ]
        for one, row in zip(ours, rows, strict=True)
    ]


def kept_run(kept: Path, index: str, trls: Sequence[WheelFile], wheel: WheelFile) -> Kept:
    """Return what is kept of a release, which is written if it was not yet."""
    file = kept / f"{wheel.filename}.run"
    if not file.is_file():
        with closing(RangeClient(credentials=lambda: index)) as client:
            tree = WheelTree(wheel, client, SpanStore())
            oldest = oldest_admitted(tree, trls)
            config = (
                write(kept, config_sources(WheelTree(oldest, client, SpanStore())))
                if oldest
                else ""
            )
            file.write_text(json.dumps([write(kept, run_sources(tree)), config]))
    return Kept(*json.loads(file.read_text()))


def oldest_admitted(tree: WheelTree, trls: Sequence[WheelFile]) -> WheelFile | None:
    """Return the oldest of ``trls`` that a plain install of a release, or an extra, admits."""
    lines = HeaderParser().parsestr(tree.metadata()).get_all("Requires-Dist", [])
    ranges = [r.specifier for r in map(Requirement, lines) if r.name == TRL] or [SpecifierSet()]
    admitted = (w for w in trls if any(r.contains(w.version) for r in ranges))
    return min(admitted, key=lambda wheel: wheel.version, default=None)


def write(kept: Path, sources: RunSources) -> str:
    """Write what is kept of a release under its digest, and return that."""
    text = json.dumps([sources.name, dict(sources.files)], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    (kept / f"{digest}.sources").write_text(text)
    return digest


@cache
def read(kept: Path, digest: str) -> RunSources:
    """Read it again."""
    name, files = json.loads((kept / f"{digest}.sources").read_text())
    return RunSources(NormalizedName(name), Version("0"), files)


def followed(kept: Path, one: Kept, zoos: Sequence[str]) -> Mapping[str, RunVerdict | None]:
    """Return the verdicts on one unsloth with each of ``zoos``, which are kept as well."""
    file = kept / f"{one.digest}-{one.trl}.runs"
    known = json.loads(file.read_text()) if file.is_file() else {}
    outcomes = {zoo: row and RunVerdict(**row) for zoo, row in known.items()}
    fresh = [zoo for zoo in zoos if zoo not in outcomes]
    if fresh:
        config = read(kept, one.trl) if one.trl else None
        unsloth = read(kept, one.digest)
        outcomes |= {zoo: verdict(unsloth, read(kept, zoo), config) for zoo in fresh}
        rows = {zoo: found and asdict(found) for zoo, found in outcomes.items()}
        file.write_text(json.dumps(rows))
    return outcomes


def verdict(unsloth: RunSources, zoo: RunSources, config: RunSources | None) -> RunVerdict | None:
    """Return what stops the default run of a pair."""
    outcome = default_run(unsloth, zoo, config)
    met = outcome.failure or next(iter(outcome.doubts), None)
    if met is None:
        return None
    return RunVerdict(
        exception=met.exception,
        name=met.need.what,
        lacks=met.provider.replace("-", "_"),
        at=f"{met.need.consumer.path}:{met.need.line}",
        why=met.reason,
        certain=outcome.failure is not None,
    )
