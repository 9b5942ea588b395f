"""The environments that an incident may have happened in, as far as its row tells.

What a row pins is pinned. What it leaves open is settled in up to four ways, which a situation
names as its ``reading``: as an unpinned install of the day would, with the consumer or the provider
of the day before (one was released, the answer to it was not), and with the oldest provider that
the consumer's declared ranges admit. Versions that no index has (a vendor's build of torch) stand in
the package list as an image's own.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import tomlkit
from incident_rows import Incident, Stated
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.asked_target import asked_probe
from grpoenv.checks.interface import MANAGED
from grpoenv.checks.native import NATIVE
from grpoenv.published import uv_platform
from grpoenv.uv import run_uv

__all__ = ["Index", "Parties", "Situation", "parties", "platform_of", "python_of", "situations"]

DISTRIBUTIONS = frozenset([*MANAGED, *NATIVE]) | {
    NormalizedName(name)
    for name in (
        "axolotl",
        "deepspeed",
        "diffusers",
        "evalscope",
        "fsspec",
        "liger-kernel",
        "lighteval",
        "llamafactory",
        "lm-eval",
        "mergekit",
        "ms-swift",
        "openrlhf",
        "protobuf",
        "pyarrow",
        "sentence-transformers",
        "sglang",
        "verifiers",
        "verl",
        "vllm",
        "xformers",
    )
}
"""Words of a row that are names of published packages."""
_ZOO = (NormalizedName("unsloth"), NormalizedName("unsloth-zoo"))
_HALVES = {_ZOO[0]: _ZOO}
"""Two halves of one program are released together: rows speak of the first and mean both."""
_PYTHON = "3.11"
_GLIBC = 35
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Target:
    """For which Python and platform, in grpoenv's words."""

    python: str
    platform: str


@dataclass(frozen=True)
class Situation:
    """One environment: ``pins`` is what the row is about, ``packages`` all that is there.

    ``on_index`` are those of the pins that are published as wheels. Where uv finds no set around
    the pins, they are all that is known of it, and it is not ``complete``.
    """

    reading: str
    pins: Mapping[NormalizedName, Version]
    packages: Mapping[NormalizedName, Version]
    target: Target
    on_index: frozenset[NormalizedName]
    complete: bool = True


@dataclass(frozen=True)
class Parties:
    """Who takes what from whom; ``script`` where the consumer is no published package."""

    consumers: tuple[NormalizedName, ...]
    providers: tuple[NormalizedName, ...]
    script: bool = False

    @property
    def names(self) -> tuple[NormalizedName, ...]:
        """Both sides."""
        return (*self.consumers, *self.providers)


@dataclass
class Index:
    """What uv says of the index as of a day, kept in ``folder``."""

    folder: Path
    asked: int = field(default=0)

    def version(
        self, requirement: str, day: date | None, target: Target, *, lowest: bool = False
    ) -> Version | None:
        """Return the version that uv takes of one package alone, None if there is none."""
        found = self.resolve([requirement], [], day, target, dependencies=False, lowest=lowest)
        return next(iter(found.values()), None)

    def resolve(
        self,
        requirements: list[str],
        overrides: list[str],
        day: date | None,
        target: Target,
        *,
        dependencies: bool = True,
        lowest: bool = False,
    ) -> dict[NormalizedName, Version]:
        """Return the set of versions that uv chooses; empty where it finds none.

        ``overrides`` hold against every declared range.
        """
        probe = asked_probe(python_version=target.python, platform=target.platform)
        arguments = ["pip", "compile", "--quiet", "--format", "pylock.toml"]
        arguments += ["--only-binary", ":all:", "--python-version", target.python]
        arguments += ["--python-platform", uv_platform(probe)]
        arguments += [] if dependencies else ["--no-deps"]
        arguments += ["--resolution", "lowest-direct"] if lowest else []
        arguments += ["--exclude-newer", day.isoformat()] if day else []
        key = hashlib.sha256(json.dumps([arguments, requirements, overrides]).encode()).hexdigest()
        kept = self.folder / f"{key[:20]}.json"
        if not kept.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(self._ask(arguments, requirements, overrides)))
        found = json.loads(kept.read_text())
        return {canonicalize_name(name): Version(version) for name, version in found.items()}

    def _ask(
        self, arguments: list[str], requirements: list[str], overrides: list[str]
    ) -> dict[str, str]:
        self.asked += 1
        with tempfile.TemporaryDirectory() as folder:
            output, forced = Path(folder) / "pylock.toml", Path(folder) / "overrides.txt"
            forced.write_text("\n".join(overrides))
            run = run_uv(
                [*arguments, "-o", output, "--override", forced, "-"],
                input_text="\n".join(requirements),
                timeout_s=_TIMEOUT_S,
            )
            if run.status != 0:
                return {}
            packages = tomlkit.parse(output.read_text("utf-8")).unwrap().get("packages", [])
        return {row["name"]: row["version"] for row in packages if "version" in row}


def parties(incident: Incident) -> Parties:
    """Return who takes from whom, as far as the row's words name published packages."""
    repository = _alias(incident.repository)
    consumers = [_alias(word) for word in incident.consumers]
    published = {*DISTRIBUTIONS, *incident.stated}
    known = [name for name in consumers if name in published]
    providers = [n for word in incident.providers if (n := _alias(word)) in published]
    if repository in known:
        known = [repository]
    elif len(known) < len(consumers):
        # "user script", "recipe", "framework": something that is nowhere published
        return Parties((), tuple(_narrowed(providers, incident)), script=bool(providers))
    return Parties(tuple(_narrowed(known, incident)), tuple(_narrowed(providers, incident)))


def _alias(word: str) -> NormalizedName:
    name = canonicalize_name(word)
    return {"llama-factory": NormalizedName("llamafactory")}.get(name, name)


def _narrowed(names: list[NormalizedName], incident: Incident) -> list[NormalizedName]:
    """Return those of a group that the row speaks of, all of them where it speaks of none."""
    text = f"{incident.exception} {incident.how}".lower().replace("_", "-")
    spoken = [name for name in names if name in incident.stated or re.search(rf"\b{name}\b", text)]
    failing = re.search(r" from ['\"](\w+)", incident.exception)
    exact = [name for name in names if failing and canonicalize_name(failing[1]) == name]
    return exact or spoken or names


def python_of(incident: Incident) -> str:
    """Return the row's Python as ``3.11``, a common one where it names none."""
    match = re.match(r"3\.\d+", incident.python)
    return match[0] if match else _PYTHON


def platform_of(incident: Incident) -> str:
    """Return the platform; a glibc that was too old is the release before the one asked for."""
    if incident.platform == "windows":
        return "x86_64-windows"
    wanted = re.search(r"GLIBC_2\.(\d+)' not found", incident.exception)
    return f"x86_64-manylinux_2_{int(wanted[1]) - 1 if wanted else _GLIBC}"


def situations(incident: Incident, sides: Parties, index: Index) -> Iterator[Situation]:
    """Yield the environments that the row may mean, the most literal first."""
    target = Target(python_of(incident), platform_of(incident))
    seen: list[Mapping[NormalizedName, Version]] = []
    for reading, pins in _readings(incident, sides, index, target):
        if pins and pins not in seen:
            seen.append(pins)
            yield _situation(reading, pins, incident, index, target)


def _readings(
    incident: Incident, sides: Parties, index: Index, target: Target
) -> Iterator[tuple[str, dict[NormalizedName, Version]]]:
    consumers = [half for name in sides.consumers for half in _HALVES.get(name, (name,))]
    providers = [name for name in sides.providers if name not in consumers]
    names = list(dict.fromkeys([*sides.names, *consumers, *incident.stated]))
    if not incident.stated and (own := _alias(incident.repository)) in DISTRIBUTIONS:
        names += [half for half in _HALVES.get(own, (own,)) if half not in names]
    day = incident.day
    literal = {name: _settled(name, incident, day, index, target) for name in names}
    whole = {name: version for name, version in literal.items() if version is not None}
    open_ = [name for name in names if _is_open(incident.stated.get(name, Stated()))]
    yield ("as of the day" if open_ else "as stated"), whole
    for side, members in (("consumer", consumers), ("provider", providers or sides.providers)):
        late = [name for name in members if name in open_ and name in whole]
        if late and day is not None:
            eve = {n: _settled(n, incident, day - timedelta(days=1), index, target) for n in late}
            before = {name: version for name, version in eve.items() if version is not None}
            yield f"the {side} of the day before", {**whole, **before}
    yield from _floors(incident, sides, index, target, whole, open_)


def _floors(
    incident: Incident,
    sides: Parties,
    index: Index,
    target: Target,
    whole: dict[NormalizedName, Version],
    open_: list[NormalizedName],
) -> Iterator[tuple[str, dict[NormalizedName, Version]]]:
    for consumer in sides.consumers:
        floors = {
            name: f"{name}{incident.stated.get(name, Stated()).specifier}"
            for name in sides.providers
            if name in open_
        }
        if consumer in whole and floors:
            wanted = [f"{consumer}=={whole[consumer].public}", *floors.values()]
            found = index.resolve(wanted, [], incident.day, target, lowest=True)
            lowest = {name: found[name] for name in floors if name in found}
            yield "the oldest provider that is admitted", {**whole, **lowest}


def _is_open(stated: Stated) -> bool:
    return stated.exact is None


def _settled(
    name: NormalizedName, incident: Incident, day: date | None, index: Index, target: Target
) -> Version | None:
    stated = incident.stated.get(name, Stated())
    if stated.exact is not None:
        return Version(f"{stated.exact}+{stated.label}") if stated.label else stated.exact
    if day is None:
        return None
    newest = index.version(f"{name}{stated.specifier}", day, target)
    if stated.branch and newest is not None:
        after = index.version(f"{name}>{newest.public}", None, target, lowest=True)
        return after or newest
    # a series that was younger than the day: the row speaks of its first release
    return newest or (
        index.version(f"{name}{stated.specifier}", None, target, lowest=True)
        if stated.specifier != SpecifierSet()
        else None
    )


def _situation(
    reading: str,
    pins: dict[NormalizedName, Version],
    incident: Incident,
    index: Index,
    target: Target,
) -> Situation:
    exact = [f"{name}=={version.public}" for name, version in pins.items()]
    day = incident.day + timedelta(days=1) if incident.day else None
    found, published = index.resolve(exact, exact, day, target), exact
    if not found:
        found, published = _around(exact, day, index, target)
    on_index = frozenset(canonicalize_name(pin.partition("==")[0]) for pin in published)
    return Situation(reading, pins, {**found, **pins}, target, on_index, bool(found))


def _around(
    exact: list[str], day: date | None, index: Index, target: Target
) -> tuple[dict[NormalizedName, Version], list[str]]:
    """Return the set around as many pins as have one, the first ones first, and which these are.

    What has no wheel, or needs what the index has no more, stands aside: it is there all the same.
    """
    found: dict[NormalizedName, Version] = {}
    kept: list[str] = []
    for pin in exact:
        more = index.resolve([*kept, pin], [*kept, pin], day, target)
        if more:
            found, kept = more, [*kept, pin]
    alone = [pin for pin in exact if pin not in kept and index.version(pin, None, target)]
    return found, [*kept, *alone]
