"""One lock: what it is made from, and the pins that uv finds for that.

An image stack keeps the packages of the image in ``keeps`` exactly, leaves its CUDA libraries out
(they came with its torch), and keeps as many of its other packages as it can without taking an
older version of a main package.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tomlkit
from packaging.tags import Tag
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from grpoenv.errors import OperationError
from grpoenv.lockfile import CpuBuild, Pin
from grpoenv.machine import wheel_folders
from grpoenv.matrix import MAIN_PACKAGES, WINDOWS
from grpoenv.probe import manylinux_tags, read_freeze, wheel_tags
from grpoenv.uv import run_uv

__all__ = ["Recipe", "find_pins"]

_TOOLS_AS_OF = "2026-11-23"
"""The day as of which uv itself is resolved in every stack: grpoenv needs a recent one."""
_NEWEST_GLIBC = 45
_TORCH = NormalizedName("torch")
_CUDA_LIBRARY = re.compile(r"(nvidia|cuda)-")


@dataclass(frozen=True)
class Recipe:
    """What one lock is made from.

    ``image`` maps the image's packages to public versions; ``agrees`` has versions that another
    lock of the stack has already, and that this one has to take where it needs the package.
    """

    requires: tuple[str, ...]
    as_of: str
    python: str
    platform: str
    image: Mapping[NormalizedName, Version]
    keeps: tuple[NormalizedName, ...]
    cpu_builds: bool
    agrees: Mapping[NormalizedName, Version]


def find_pins(recipe: Recipe) -> list[Pin]:
    """Return every package of the lock, with the hashes of the wheels that fit its target.

    Raises OperationError with uv's reason if there is no such set.
    """
    versions = _versions(recipe, _forced(recipe), ())
    excludes: tuple[str, ...] = ()
    if recipe.image:
        excludes = tuple(name for name in versions if _CUDA_LIBRARY.match(name))
        versions = _keep_more(recipe, excludes)
    packages = _pylock(recipe, versions, excludes)
    cuda_only = frozenset[str]()
    if recipe.cpu_builds and _cpu_wheel(versions[_TORCH], recipe):
        with_cpu = _versions(recipe, {n: v for n, v in versions.items() if n != _TORCH}, (), True)
        cuda_only = frozenset(versions.keys() - with_cpu.keys())
    return [_pin(package, recipe, cuda_only) for package in packages]


def _forced(recipe: Recipe) -> dict[NormalizedName, Version]:
    return {**recipe.agrees, **{name: recipe.image[name] for name in recipe.keeps}}


def _keep_more(recipe: Recipe, excludes: Sequence[str]) -> dict[NormalizedName, Version]:
    """Keep one more of the image's packages at a time, where the main versions stay the same."""
    kept = _forced(recipe)
    best = _versions(recipe, kept, excludes)
    for name in sorted(best):
        if recipe.image.get(name, best[name]) == best[name]:
            continue
        try:
            tried = _versions(recipe, {**kept, name: recipe.image[name]}, excludes)
        except OperationError:
            continue
        if all(tried.get(main) == best.get(main) for main in MAIN_PACKAGES if main != name):
            kept[name], best = recipe.image[name], tried
    return best


def _versions(
    recipe: Recipe,
    constraints: Mapping[NormalizedName, Version],
    excludes: Sequence[str],
    cpu: bool = False,
) -> dict[NormalizedName, Version]:
    """Return the versions that uv finds, the image's preferred."""
    with tempfile.TemporaryDirectory(prefix="grpoenv-") as folder:
        output = Path(folder) / "requirements.txt"
        output.write_text("".join(f"{n}=={v}\n" for n, v in recipe.image.items()), "utf-8")
        arguments: list[str | Path] = ["--no-annotate", "--no-header", "-o", output]
        if cpu:
            for wheels in wheel_folders():
                arguments += ["--find-links", wheels]
        _compile(recipe, constraints, excludes, arguments, Path(folder))
        return read_freeze(output)


def _pylock(
    recipe: Recipe, versions: Mapping[NormalizedName, Version], excludes: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Return uv's lock entries, which carry files, sizes and hashes, for exactly ``versions``."""
    with tempfile.TemporaryDirectory(prefix="grpoenv-") as folder:
        output = Path(folder) / "pylock.toml"
        _compile(
            recipe, versions, excludes, ["--format", "pylock.toml", "-o", output], Path(folder)
        )
        packages: list[Mapping[str, Any]] = tomlkit.parse(output.read_text("utf-8")).unwrap()[
            "packages"
        ]
        return packages


def _compile(
    recipe: Recipe,
    constraints: Mapping[NormalizedName, Version],
    excludes: Sequence[str],
    arguments: Sequence[str | Path],
    folder: Path,
) -> None:
    constrained, excluded = folder / "constraints.in", folder / "excludes.in"
    constrained.write_text("".join(f"{n}=={v}\n" for n, v in constraints.items()), "utf-8")
    excluded.write_text("".join(f"{name}\n" for name in excludes), "utf-8")
    run = run_uv(
        [
            *("pip", "compile", "-", "--quiet", "--only-binary", ":all:"),
            *("--python-version", recipe.python, "--python-platform", recipe.platform),
            *("--exclude-newer", recipe.as_of, "--exclude-newer-package", f"uv={_TOOLS_AS_OF}"),
            *("--constraints", constrained, "--excludes", excluded),
            *arguments,
        ],
        input_text="".join(f"{text}\n" for text in recipe.requires),
    )
    if run.status != 0:
        raise OperationError(f"uv finds no such set:\n{run.messages}")


def _pin(package: Mapping[str, Any], recipe: Recipe, cuda_only: frozenset[str]) -> Pin:
    name, version = canonicalize_name(package["name"]), Version(package["version"])
    tags = {tag: n for n, tag in enumerate(_tags(recipe))}
    fitting = []
    for wheel in package.get("wheels", []):
        ranks = [tags[tag] for tag in _wheel_tags(wheel) if tag in tags]
        if ranks:
            fitting.append((min(ranks), int(wheel["size"]), f"sha256:{wheel['hashes']['sha256']}"))
    if not fitting:
        raise OperationError(
            f"{name} {version} has no wheel for {recipe.python} on {recipe.platform}"
        )
    hashes = sorted(hash_ for _, _, hash_ in fitting)
    cpu = _cpu_wheel(version, recipe) if name == _TORCH and recipe.cpu_builds else None
    if cpu:
        hashes.append(cpu.hash)
    return Pin(name, version, tuple(hashes), min(fitting)[1], cpu, name in cuda_only)


def _tags(recipe: Recipe) -> list[Tag]:
    machine = recipe.platform.partition("-")[0]
    windows = recipe.platform == WINDOWS
    platforms = ("win_amd64",) if windows else manylinux_tags(machine, _NEWEST_GLIBC)
    return wheel_tags(recipe.python, platforms)


def _wheel_tags(wheel: Mapping[str, Any]) -> frozenset[Tag]:
    filename = wheel.get("name") or unquote(urlsplit(wheel["url"]).path.rpartition("/")[2])
    return parse_wheel_filename(filename)[3]


def _cpu_wheel(version: Version, recipe: Recipe) -> CpuBuild | None:
    """Return torch's CPU build of ``version`` from the user's wheel folders, if one fits."""
    accepted = set(_tags(recipe))
    for folder in wheel_folders():
        for path in sorted(folder.glob(f"torch-{version}+cpu-*.whl")):
            _, built, _, tags = parse_wheel_filename(path.name)
            if tags & accepted:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                return CpuBuild(built, f"sha256:{digest}", path.stat().st_size)
    return None
