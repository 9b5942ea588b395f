"""What uv would install: the versions that it chooses for a target, and where their wheels are.

uv reads the indexes, so it is the user's own configuration that counts (mirrors, folders of
wheels, credentials); nothing is built and nothing is installed. For what is published as sources
alone uv is given a stand-in for the wheel that they would build (``grpoenv.stand_ins``).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from packaging.tags import Tag
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from grpoenv.errors import InputError, UndeterminedError
from grpoenv.probe import Probe
from grpoenv.stand_ins import make_stand_ins
from grpoenv.strict_toml import load_values
from grpoenv.uv import UvRun, explain_failure, run_uv
from grpoenv.wheels import WheelError, WheelFile

__all__ = ["NoSolution", "NoWheel", "Published", "Wanted", "find_published", "uv_platform"]

_TIMEOUT_S = 120.0
_LIMIT_BYTES = 64 * 1024 * 1024
_ROUNDS = 4
"""How often uv is asked: each time it names packages without wheels, it gets stand-ins for them."""
_WITHOUT_WHEELS = re.compile(r"Wheels are required for `([\w.-]+)`")
_LIBC = re.compile(r"manylinux_2_(\d+)_(\w+)")
_UV_LIBC = (40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17)
"""The second numbers of the glibc versions that uv knows a platform for."""


@dataclass(frozen=True)
class Wanted:
    """What a user wants to install: requirements, files of them, and how uv should choose.

    ``exclude_newer`` is a date or what else uv takes for one, empty for today.
    """

    requirements: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    dependencies: bool = True
    exclude_newer: str = ""

    def __str__(self) -> str:
        return " ".join((*self.requirements, *(f"-r {path}" for path in self.files)))


@dataclass(frozen=True)
class Published:
    """The wheels that uv chose, and the packages it chose that have none for the target."""

    wheels: dict[NormalizedName, WheelFile]
    without_wheel: tuple[NoWheel, ...]


@dataclass(frozen=True)
class NoWheel:
    """A package of the set that is no wheel; ``version`` is None where uv names none."""

    name: NormalizedName
    version: Version | None


@dataclass(frozen=True)
class NoSolution:
    """No set of versions meets the requirements; ``reason`` is uv's."""

    reason: str


def find_published(
    wanted: Wanted, probe: Probe, image: Mapping[NormalizedName, Version]
) -> Published | NoSolution:
    """Return what uv would install for ``wanted`` on the machine and interpreter of ``probe``.

    The versions of ``image`` stay where nothing forbids it. Raises InputError where uv does not
    understand what is wanted, UndeterminedError where it cannot tell.
    """
    with tempfile.TemporaryDirectory(prefix="grpoenv-") as folder:
        output = Path(folder) / "pylock.toml"
        run = _resolved(wanted, probe, image, output)
        if run.status != 0:
            return _no_solution(run.messages)
        packages = _locked(output)
    return _published(packages, probe.tags(), folder=Path(folder))


def _resolved(
    wanted: Wanted, probe: Probe, image: Mapping[NormalizedName, Version], output: Path
) -> UvRun:
    """Run uv, with stand-ins for the packages that have no wheel, or none of a release proper."""
    asked: set[NormalizedName] = set()
    folders: list[Path] = []
    for _ in range(_ROUNDS):
        output.write_text(_preferences(image), "utf-8")
        links = [*os.environ.get("UV_FIND_LINKS", "").split(","), *map(str, folders)]
        run = run_uv(
            [*_arguments(wanted, probe), *(_find_links(links) if folders else ()), "-o", output],
            input_text="".join(f"{text}\n" for text in wanted.requirements),
            timeout_s=_TIMEOUT_S,
        )
        lacking = _unfinished(output) if run.status == 0 else _WITHOUT_WHEELS.findall(run.messages)
        new = set(map(canonicalize_name, lacking)) - asked
        if not new:
            break
        asked |= new
        try:
            made = make_stand_ins(
                sorted(new), wanted.requirements, wanted.exclude_newer, probe.interpreter.version
            )
        except WheelError:
            break  # what uv says of it is the better answer
        if not made:
            break
        folders += made
    return run


def _locked(output: Path) -> list[Mapping[str, Any]]:
    return list(load_values(output, limit_bytes=_LIMIT_BYTES).get("packages", []))


def _unfinished(output: Path) -> list[str]:
    """Return the packages of which uv chose a pre-release: it does where nothing else has wheels."""
    versions = {row["name"]: row.get("version") for row in _locked(output)}
    return [name for name, text in versions.items() if text and Version(text).is_prerelease]


def _find_links(places: Iterable[str]) -> list[str]:
    return [word for place in places if place for word in ("--find-links", place)]


def _preferences(image: Mapping[NormalizedName, Version]) -> str:
    """Return the lock that uv finds in the place of its output: it keeps to that where it can."""
    import tomlkit

    document = tomlkit.document()
    document["lock-version"], document["created-by"] = "1.0", "grpoenv"
    rows = tomlkit.aot()
    for name, version in image.items():
        rows.append(tomlkit.item({"name": name, "version": version.public}))
    document["packages"] = rows
    return tomlkit.dumps(document)


def _arguments(wanted: Wanted, probe: Probe) -> list[str | Path]:
    arguments: list[str | Path] = ["pip", "compile", "--quiet", "--only-binary", ":all:"]
    arguments += ["--python", sys.executable, "--format", "pylock.toml"]
    arguments += ["--python-version", probe.interpreter.version]
    if platform := uv_platform(probe):
        arguments += ["--python-platform", platform]
    if not wanted.dependencies:
        arguments.append("--no-deps")
    if wanted.exclude_newer:
        arguments += ["--exclude-newer", wanted.exclude_newer]
    arguments += [path.resolve() for path in wanted.files]
    return arguments + (["-"] if wanted.requirements else [])


def uv_platform(probe: Probe) -> str:
    """Return uv's name for the platform, empty for that of the running interpreter."""
    if "win_amd64" in probe.platform_tags:
        return "x86_64-pc-windows-msvc"
    for tag in probe.platform_tags:
        if match := _LIBC.fullmatch(tag):
            known = next((libc for libc in _UV_LIBC if libc <= int(match[1])), _UV_LIBC[-1])
            return f"{match[2]}-manylinux_2_{known}"
    return ""


def _no_solution(messages: str) -> NoSolution:
    """Return uv's reason where there is no solution; raises where it was something else."""
    if re.search(r"building (from source|source distributions) is disabled", messages):
        raise UndeterminedError(
            f"what has no wheels cannot be looked into:\n{messages}",
            remedy="leave out what has to be built from source",
        )
    if "No solution found" in messages:
        return NoSolution(messages.removeprefix("error: ").strip())
    if re.search(r"Couldn't parse|invalid value|File not found", messages):
        raise InputError(f"uv does not understand the requirements:\n{messages}")
    cause, remedy = explain_failure(messages)
    raise UndeterminedError(f"{cause}:\n{messages}", remedy=remedy)


def _published(
    packages: Iterable[Mapping[str, Any]], tags: Sequence[Tag], folder: Path
) -> Published:
    ranks = {tag: rank for rank, tag in enumerate(tags)}
    wheels, without = {}, []
    for package in packages:
        name = canonicalize_name(package["name"])
        if wheel := _best(name, package, ranks, folder):
            wheels[name] = wheel
        else:
            version = package.get("version")
            without.append(NoWheel(name, Version(version) if version else None))
    return Published(wheels, tuple(without))


def _best(
    name: NormalizedName, package: Mapping[str, Any], ranks: Mapping[Tag, int], folder: Path
) -> WheelFile | None:
    """Return the wheel of ``package`` that an installer would take, None if none fits."""
    fitting = []
    for row in [*package.get("wheels", []), *_archive(package)]:
        wheel, tags = _wheel(name, row, folder)
        if tags & ranks.keys():
            fitting.append((min(ranks[tag] for tag in tags & ranks.keys()), wheel))
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _archive(package: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    row = package.get("archive")
    return [row] if row and _filename(row).endswith(".whl") else []


def _wheel(
    name: NormalizedName, row: Mapping[str, Any], folder: Path
) -> tuple[WheelFile, frozenset[Tag]]:
    filename = _filename(row)
    _, version, _, tags = parse_wheel_filename(filename)
    url, path = row.get("url", ""), row.get("path")
    if url.startswith("file://"):
        url, path = "", url2pathname(urlsplit(url).path)
    return (
        WheelFile(
            name=name,
            version=version,
            filename=filename,
            url=url,
            path=folder / path if path else None,
            size=row.get("size"),
            sha256=row.get("hashes", {}).get("sha256", ""),
        ),
        tags,
    )


def _filename(row: Mapping[str, Any]) -> str:
    place = row.get("name") or unquote(urlsplit(row.get("url", "")).path) or row.get("path", "")
    return str(place).rpartition("/")[2]
