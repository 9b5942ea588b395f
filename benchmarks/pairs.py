"""Classify every pair of unsloth and unsloth_zoo releases: what imports, and why others do not.

    python benchmarks/pairs.py classify FILE           reads every release since 2025.2, writes FILE
    python benchmarks/pairs.py summary FILE            counts it
    python benchmarks/pairs.py compare FILE EXECUTED   holds it against pairs that were executed
    python benchmarks/pairs.py today FILE TODAY        looks up what uv chooses for unsloth==X

``classify`` reads the sources out of the wheels, by range requests. What a release takes and has is
worked out once and kept in the user's cache, so that the next ``classify`` only looks pairs up;
``--anew`` forgets it first. The files are described in ``grpoenv.pair_verdicts`` and results/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.parser import HeaderParser
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version
from pair_runs import run_verdicts

import grpoenv.linker
from grpoenv import __version__
from grpoenv.errors import GrpoenvError
from grpoenv.linker.pairs import Parsed, Scan, Taken, answers, first_failure, scan
from grpoenv.pair_verdicts import (
    Classification,
    Release,
    RunVerdict,
    Verdict,
    read_classification,
    read_data,
    write_classification,
)
from grpoenv.private_cache import user_cache_folder
from grpoenv.update_network import effective_index
from grpoenv.wheels import (
    RangeClient,
    SpanStore,
    WheelFile,
    WheelTree,
    fetch_sources,
    published_wheels,
)
from grpoenv.wheels.transfer import CONNECTIONS

SINCE = Version("2025.2")
Named = TypeVar("Named")
UNSLOTH, ZOO = NormalizedName("unsloth"), NormalizedName("unsloth-zoo")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for run, names in COMMANDS.items():
        command = commands.add_parser(run.__name__, help=run.__doc__.splitlines()[0])
        command.set_defaults(run=run)
        for name in names:
            command.add_argument(name, type=Path)
        if run is classify:
            command.add_argument("--anew", action="store_true")
    arguments = vars(parser.parse_args())
    try:
        arguments.pop("run")(**arguments)
    except GrpoenvError as error:
        raise SystemExit(error.message) from error


def classify(file: Path, anew: bool) -> None:
    """Work the verdict on every pair out, and write it."""
    started = time.perf_counter()
    kept = kept_scans()
    if anew:
        shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    unsloths, zoos = published()
    missing = [
        wheel for wheel in [*unsloths, *zoos] if not (kept / f"{wheel.filename}.has").is_file()
    ]
    fetch(missing)
    fetched = time.perf_counter()
    ours, theirs = examined(kept, unsloths, zoos)
    looked = time.perf_counter()
    rows = [[pair_verdict(one, zoo) for zoo in theirs] for one in ours]
    runs = run_verdicts(kept, unsloths, zoos, rows, index_address() or "")
    found = Classification(
        date=datetime.now(timezone.utc).date().isoformat(),
        grpoenv=__version__,
        unsloth=[one.release for one in ours],
        zoos=[one.release for one in theirs],
        undetermined=sorted(
            {taken.what for one in [*ours, *theirs] for taken in one.has if one.has[taken] is None}
        ),
        rows=rows,
        runs=runs,
    )
    write_classification(found, file)
    done = time.perf_counter()
    processor = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    print(
        f"{len(missing)} wheels read in {fetched - started:.1f} s, scanned in "
        f"{looked - fetched:.1f} s, {len(ours) * len(theirs):,} pairs in {done - looked:.1f} s; "
        f"{done - started:.1f} s in all, {processor:.1f} s of processor"
    )


def summary(file: Path) -> None:
    """Print how many pairs the declared ranges admit, and what stops those that fail."""
    found = read_classification(file)
    pairs = list(listed(found))
    admitted = [pair for pair in pairs if admits(pair.unsloth, pair.zoo)]
    strict = [pair for pair in pairs if admits(pair.unsloth, pair.zoo, extras=True)]
    print(f"{len(found.unsloth)} releases of unsloth, {len(found.zoos)} of unsloth_zoo")
    print(f"{len(pairs):6,} pairs in all, {failing(pairs)}")
    print(f"{len(admitted):6,} admitted by the declared ranges, {failing(admitted)}")
    print(f"{len(strict):6,} admitted with every extra, too, {failing(strict)}")
    for title, verdict_of in (("first failure of the import", at_import), ("of the run", in_run)):
        print(f"\n pairs admitted  lacks        {title}")
        inside = Counter(group(v) for pair in admitted if (v := verdict_of(pair)))
        for key, count in Counter(group(v) for p in pairs if (v := verdict_of(p))).most_common():
            lacks, message = key
            print(f"{count:6,} {inside[key]:8,}  {lacks:11}  {message}")


def compare(file: Path, executed: Path) -> None:
    """Hold the verdicts against pairs that were executed; exit 1 where one differs."""
    found, rows, wrong, same, later = (
        read_classification(file),
        read_data(executed)["pairs"],
        0,
        0,
        0,
    )
    agreed: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    for row in rows:
        verdict = found.verdict(row["unsloth"], row["zoo"])
        kind = outcome(row)
        counted[kind] += 1
        if kind == OTHER:
            continue
        if (verdict is None) != (kind == IMPORTS):
            wrong += 1
            print(f"differs: unsloth {row['unsloth']}, zoo {row['zoo']}: {row}, here {verdict}")
            continue
        agreed[kind] += 1
        later += "held_out" in row
        if verdict is not None:
            theirs = Verdict(row["exception"], row["symbol"], row["provider"], row["at"])
            same += verdict == theirs
    for kind in (IMPORTS, FAILS):
        print(f"{agreed[kind]} of {counted[kind]} executed pairs: {kind}")
    print(f"{same} of {agreed[FAILS]} name the exception, symbol, file and line that Python does")
    held_out = sum("held_out" in row for row in rows)
    print(f"{later} of {held_out} drawn after the verdicts stood agree")
    print(f"{counted[OTHER]} executed pairs: {OTHER}")
    steps = [row["grpo"] for row in rows if "grpo" in row]
    wrong += compare_runs(found, rows)
    print(
        f"GRPO steps, looked into with {len(steps)} that import: {counts(Counter(step['outcome'] for step in steps))}"
    )
    blame = Counter(step["fault"] for step in steps if "fault" in step)
    print(f"GRPO steps that fail, by what disagrees: {counts(blame)}")
    sys.exit(1 if wrong else 0)


def compare_runs(found: Classification, rows: Sequence[Mapping[str, Any]]) -> int:
    """Print how the verdicts on default runs agree with those executed; return how many differ."""
    stepped = [row for row in rows if "grpo" in row]
    ran = [row for row in stepped if row["grpo"]["outcome"] == "runs"]
    failed = [row for row in stepped if row["grpo"].get("fault") == BY_THE_PAIR]
    false = [row for row in ran if is_certain(found.run(row["unsloth"], row["zoo"]))]
    missed = [row for row in failed if not is_certain(found.run(row["unsloth"], row["zoo"]))]
    for row in (*false, *missed):
        verdict = found.run(row["unsloth"], row["zoo"])
        print(f"differs: unsloth {row['unsloth']}, zoo {row['zoo']}: {row['grpo']}, here {verdict}")
    print(f"{len(ran) - len(false)} of {len(ran)} executed runs that end well: not called broken")
    print(f"{len(failed) - len(missed)} of {len(failed)} that the pair makes fail: found")
    same = sum(tells_the_same(found.run(r["unsloth"], r["zoo"]), r["grpo"]) for r in failed)
    print(f"{same} of {len(failed) - len(missed)} name the exception and what Python names in it")
    later = [row for row in (*ran, *failed) if row["grpo"].get("held_out")]
    held = [row for row in later if row not in false and row not in missed]
    print(f"{len(held)} of {len(later)} executed after the verdicts on runs stood agree")
    return len(false) + len(missed)


def is_certain(verdict: RunVerdict | None) -> bool:
    """Tell whether a default run certainly fails."""
    return verdict is not None and verdict.certain


def tells_the_same(verdict: RunVerdict | None, step: Mapping[str, str]) -> bool:
    """Tell whether a verdict has the exception of an executed run and what its message names."""
    if verdict is None or verdict.exception != step["exception"]:
        return False
    said = step.get("message") or f"'{step['symbol']}'"
    named = re.findall(r"(?<=')\w+(?=')|\w+(?=\(\))|(?<=expected )\d+", said)
    return all(word in f"{verdict.name} {verdict.why}" for word in named)


BY_THE_PAIR = "unsloth/unsloth_zoo"
IMPORTS = "imports"
FAILS = "fails, because one of the two lacks what the other takes"
OTHER = "fails, because of a third package: the pair does not decide it"


def outcome(row: Mapping[str, str | None]) -> str:
    """Return which kind of outcome an executed pair had."""
    if row["outcome"] == "imports":
        return IMPORTS
    return FAILS if row["provider"] in ("unsloth", "unsloth_zoo") else OTHER


def today(file: Path, today: Path) -> None:
    """Look up the zoo that uv chooses where only unsloth==X is pinned, for every X."""
    found, data = read_classification(file), read_data(today)
    for python, rows in data["resolved"].items():
        chosen = [
            Pair(row["unsloth"], row["zoo"], found.verdict(*key), found.run(*key))
            for row in rows
            if row["zoo"] is not None
            for key in [(row["unsloth"], row["zoo"])]
        ]
        print(f"Python {python}: of {len(rows)} releases {len(chosen)} resolve; {failing(chosen)}")
        for pair in chosen:
            if verdict := at_import(pair) or in_run(pair):
                print(f"  unsloth {pair.unsloth} with zoo {pair.zoo}: {' '.join(group(verdict))}")
    outcomes = Counter(row["outcome"] for row in data["executed"])
    steps = Counter(row["grpo"]["outcome"] for row in data["executed"] if "grpo" in row)
    print(
        f"{len(data['executed'])} such sets were installed and executed: {outcomes['imports']} "
        f"import, {outcomes['fails']} do not; GRPO steps: {counts(steps)}"
    )


COMMANDS = {
    classify: ["file"],
    summary: ["file"],
    compare: ["file", "executed"],
    today: ["file", "today"],
}


@dataclass(frozen=True)
class Pair(Generic[Named]):
    """A pair with its verdicts; ``unsloth`` and ``zoo`` are releases or versions."""

    unsloth: Named
    zoo: Named
    imports: Verdict | None
    runs: RunVerdict | None


def listed(found: Classification) -> Iterable[Pair[Release]]:
    """Yield every pair with its verdicts."""
    for one, row, runs in zip(found.unsloth, found.rows, found.runs, strict=True):
        for zoo, verdict, run in zip(found.zoos, row, runs, strict=True):
            yield Pair(one, zoo, verdict, run)


def admits(one: Release, zoo: Release, *, extras: bool = False) -> bool:
    """Tell whether each of a pair meets the ranges that the other declares."""
    return one.admits(zoo.version, extras=extras) and zoo.admits(one.version, extras=extras)


def at_import(pair: Pair[Named]) -> Verdict | None:
    """Return what stops the import of a pair."""
    return pair.imports


def in_run(pair: Pair[Named]) -> Verdict | None:
    """Return what certainly stops the default run of a pair that imports."""
    return pair.runs if is_certain(pair.runs) else None


def failing(pairs: Sequence[Pair[Named]]) -> str:
    """Say how many pairs something stops, and of how many that cannot be told."""
    stopped = sum(at_import(pair) is not None for pair in pairs)
    broken = sum(in_run(pair) is not None for pair in pairs)
    untold = sum(pair.runs is not None for pair in pairs) - broken
    return (
        f"{stopped:,} fail at import, {broken:,} in the default GRPO run; "
        f"{untold:,} more may, which sources do not tell"
    )


def group(verdict: Verdict) -> tuple[str, str]:
    """Return the package that lacks something, and what Python says of it."""
    why = re.sub(r"^.*\.py:\d+ ", "", verdict.why) if isinstance(verdict, RunVerdict) else ""
    is_named = verdict.exception in ("NameError", "KeyError")
    return verdict.lacks, f"{verdict.exception}: {verdict.name}" + (
        f" {why}" if why and not is_named else ""
    )


def counts(found: Counter[str]) -> str:
    """Return counts in words."""
    return ", ".join(f"{count} {what}" for what, count in found.most_common())


@dataclass(frozen=True)
class Examined:
    """A release: what importing it takes from the other package, and what it has of the other's."""

    release: Release
    scan: Scan
    has: Mapping[Taken, bool | None] = field(default_factory=dict)


def pair_verdict(one: Examined, zoo: Examined) -> Verdict | None:
    """Return what stops ``import unsloth`` in a pair."""
    failure = first_failure(one.scan, "unsloth", zoo.has, zoo.scan, one.has)
    if failure is None:
        return None
    taken, place = failure
    return Verdict(taken.exception, taken.what, taken.module.partition(".")[0], place)


def examined(
    kept: Path, unsloths: Sequence[WheelFile], zoos: Sequence[WheelFile]
) -> tuple[list[Examined], list[Examined]]:
    """Scan every release, and ask each for all that any release of the other package takes."""
    with ProcessPoolExecutor() as pool:
        ours = list(pool.map(partial(scanned, kept, ["unsloth"], []), unsloths))
        modules = sorted({taken.module for taken in needs(ours)})
        theirs = list(pool.map(partial(scanned, kept, modules, needs(ours)), zoos))
        zoo_has = pool.map(partial(answered, kept, needs(ours)), zoos)
        unsloth_has = pool.map(partial(answered, kept, needs(theirs)), unsloths)
        return (
            [replace(one, has=has) for one, has in zip(ours, unsloth_has, strict=True)],
            [replace(one, has=has) for one, has in zip(theirs, zoo_has, strict=True)],
        )


def index_address() -> str | None:
    """Return the address of the index that uv would use."""
    address = effective_index(os.environ)
    return address.url if address else None


def published() -> list[list[WheelFile]]:
    """Return the wheels of every release of both packages, oldest first."""
    index = index_address()
    if index is None:
        raise SystemExit("uv names no package index")
    with closing(RangeClient(credentials=index_address)) as client:
        return [
            [wheel for wheel in published_wheels(name, index, client) if wheel.version >= SINCE]
            for name in (UNSLOTH, ZOO)
        ]


def fetch(wheels: Sequence[WheelFile]) -> None:
    """Bring the sources of ``wheels`` into the user's cache, many at a time."""
    with (
        closing(RangeClient(credentials=index_address)) as client,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        fetch_sources(list(pool.map(lambda wheel: WheelTree(wheel, client, SpanStore()), wheels)))


def kept_scans() -> Path:
    """Return the folder of what is worked out with the linker as it is now."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for source in sorted(Path(grpoenv.linker.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return user_cache_folder() / "pairs" / digest.hexdigest()[:16]


def scanned(kept: Path, modules: list[str], wanted: list[Taken], wheel: WheelFile) -> Examined:
    """Return the scan of a release, from its file if that covers ``modules``.

    While its sources are parsed, it is asked for what is ``wanted`` as well.
    """
    file = kept / f"{wheel.filename}.takes"
    if file.is_file():
        data = json.loads(file.read_text())
        if data["modules"] == modules:
            takes = {
                module: tuple((Taken(*row[:3]), row[3]) for row in rows)
                for module, rows in data["takes"].items()
            }
            release = Release(data["version"], data["needs"], tuple(data["extras"]))
            return Examined(release, Scan(data["version"], takes))
    with closing(RangeClient(credentials=index_address)) as client:
        tree = WheelTree(wheel, client, SpanStore())
        parsed: Parsed = {}
        other = "unsloth_zoo" if wheel.name == UNSLOTH else "unsloth"
        found = scan(tree, other, modules, parsed)
        keep_answers(kept, wheel, answers(tree, wanted, parsed))
        release = declared(tree)
    rows = {
        module: [[taken.module, taken.name, taken.key, place] for taken, place in takes]
        for module, takes in found.takes.items()
    }
    head = {"version": release.version, "needs": release.needs, "extras": release.extras}
    file.write_text(json.dumps({**head, "modules": modules, "takes": rows}))
    return Examined(release, found)


def declared(tree: WheelTree) -> Release:
    """Return a release with the ranges that its METADATA has for the other package."""
    other = ZOO if tree.name == UNSLOTH else UNSLOTH
    plain, extras = [], set()
    for text in HeaderParser().parsestr(tree.metadata()).get_all("Requires-Dist", []):
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != other:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            plain.append(str(requirement.specifier))
        elif "extra" in str(requirement.marker):
            extras.add(str(requirement.specifier))
    return Release(
        version=str(tree.version),
        needs=",".join(plain) if plain else None,
        extras=tuple(sorted(extras - set(plain))),
    )


def needs(releases: Iterable[Examined]) -> list[Taken]:
    """Return everything that any of the releases takes."""
    takes = (takes for one in releases for takes in one.scan.takes.values())
    found = {taken for each in takes for taken, _ in each}
    return sorted(found, key=lambda taken: (taken.module, taken.name, taken.key))


def answered(kept: Path, wanted: list[Taken], wheel: WheelFile) -> dict[Taken, bool | None]:
    """Return whether a release has each of ``wanted``, from its file as far as that goes."""
    file = kept / f"{wheel.filename}.has"
    rows = json.loads(file.read_text()) if file.is_file() else []
    known = {Taken(*row[:3]): row[3] for row in rows}
    missing = [taken for taken in wanted if taken not in known]
    if missing:
        with closing(RangeClient(credentials=index_address)) as client:
            known.update(answers(WheelTree(wheel, client, SpanStore()), missing, {}))
        keep_answers(kept, wheel, known)
    return {taken: known[taken] for taken in wanted}


def keep_answers(kept: Path, wheel: WheelFile, known: Mapping[Taken, bool | None]) -> None:
    """Write what a release was found to have, and not to have."""
    rows = [[taken.module, taken.name, taken.key, answer] for taken, answer in known.items()]
    (kept / f"{wheel.filename}.has").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
