"""Resolve a stack with uv and write its hashed locks and its row of the matrix.

A row starts as a recipe: ``id``, ``runtime``, ``summary``, ``requires``, ``as_of``, perhaps
``image``, ``keeps`` and additions, and targets of ``python`` and ``platform``. This module adds the
rest: the locks, their digests, the main versions, and the evidence that uv resolved them.

An image stack keeps the packages of the image in ``keeps`` exactly, leaves its CUDA libraries out
(they came with its torch), and keeps as many of its other packages as it can without taking an
older version of a main package.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tomlkit
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from grpoenv import __version__
from grpoenv._data import DataPaths
from grpoenv.errors import InputError, OperationError
from grpoenv.lockfile import CpuBuild, Pin, render_lock
from grpoenv.machine import wheel_folders
from grpoenv.matrix import MAIN_PACKAGES
from grpoenv.matrix_file import MATRIX_LIMIT_BYTES, load_matrix
from grpoenv.probe import manylinux_tags, read_freeze, wheel_tags
from grpoenv.strict_toml import load_document
from grpoenv.uv import run_uv

__all__ = ["lock_stack"]

_TOOLS_AS_OF = "2026-11-23"
"""The day as of which uv itself is resolved in every stack: grpoenv needs a recent one."""
_NEWEST_GLIBC = 45
_TORCH = NormalizedName("torch")
_CUDA_LIBRARY = re.compile(r"(nvidia|cuda)-")


@dataclass(frozen=True)
class _Recipe:
    """What one lock is made from; ``image`` maps the image's packages to public versions."""

    requires: tuple[str, ...]
    as_of: str
    python: str
    platform: str
    image: Mapping[NormalizedName, Version]
    keeps: tuple[NormalizedName, ...]
    cpu_builds: bool


def lock_stack(data: DataPaths, id_: str) -> list[Path]:
    """Resolve the stack ``id_`` for all its targets; return the locks written.

    The matrix is written anew with the digests, versions and evidence, comments and order kept.
    Raises InputError if there is no such stack, OperationError with uv's reason if it has no
    solution.
    """
    document = load_document(data.matrix, limit_bytes=MATRIX_LIMIT_BYTES)
    row = next((row for row in document.get("stack", []) if row.get("id") == id_), None)
    if row is None:
        raise InputError(f"has no stack {id_!r}", path=data.matrix)
    written = []
    for target in row["target"]:
        recipe = _recipe(row, target, data)
        pins = _resolve(recipe)
        name = f"{id_}/cp{recipe.python.replace('.', '')}-{recipe.platform}.txt"
        text = render_lock(pins, header=f"{id_} for CPython {recipe.python}, {recipe.platform}")
        path = data.locks / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        target["lock"] = name
        target["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        _record_evidence(target, id_)
        row["versions"] = _main_versions(pins)
        written.append(path)
    data.matrix.write_text(_canonical(tomlkit.dumps(document)), encoding="utf-8")
    load_matrix(data.matrix)
    return written


def _canonical(toml: str) -> str:
    """Return ``toml`` with one empty line before every table, whoever wrote it."""
    return re.sub(r"\n+(?=\[)", "\n\n", toml).rstrip("\n") + "\n"


def _recipe(row: Mapping[str, Any], target: Mapping[str, Any], data: DataPaths) -> _Recipe:
    image = row.get("image", "")
    freeze = read_freeze(data.locks / "images" / f"{image}.txt") if image else {}
    additions = [addition["package"] for addition in row.get("addition", [])]
    return _Recipe(
        requires=(*row["requires"], *additions, *_own_requirements()),
        as_of=str(row["as_of"]),
        python=str(target["python"]),
        platform=str(target["platform"]),
        image={name: Version(version.public) for name, version in freeze.items()},
        keeps=tuple(canonicalize_name(name) for name in row.get("keeps", [])),
        cpu_builds=row["runtime"] == "trl",
    )


def _own_requirements() -> list[str]:
    """Return what grpoenv needs: it is part of every environment that it installs."""
    parsed = [Requirement(text) for text in requires("grpoenv") or []]
    return [str(requirement) for requirement in parsed if not requirement.marker]


def _resolve(recipe: _Recipe) -> list[Pin]:
    versions = _versions(recipe, dict(_kept_by_force(recipe)), ())
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


def _kept_by_force(recipe: _Recipe) -> list[tuple[NormalizedName, Version]]:
    return [(name, recipe.image[name]) for name in recipe.keeps]


def _keep_more(recipe: _Recipe, excludes: Sequence[str]) -> dict[NormalizedName, Version]:
    """Keep one more of the image's packages at a time, where the main versions stay the same."""
    kept = dict(_kept_by_force(recipe))
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
    recipe: _Recipe,
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
    recipe: _Recipe, versions: Mapping[NormalizedName, Version], excludes: Sequence[str]
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
    recipe: _Recipe,
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


def _pin(package: Mapping[str, Any], recipe: _Recipe, cuda_only: frozenset[str]) -> Pin:
    name, version = canonicalize_name(package["name"]), Version(package["version"])
    machine = recipe.platform.partition("-")[0]
    tags = {tag: n for n, tag in enumerate(_tags(recipe.python, machine))}
    fitting = []
    for wheel in package.get("wheels", []):
        ranks = [tags[tag] for tag in _wheel_tags(wheel) if tag in tags]
        if ranks:
            fitting.append((min(ranks), int(wheel["size"]), f"sha256:{wheel['hashes']['sha256']}"))
    if not fitting:
        raise OperationError(f"{name} {version} has no wheel for {recipe.python} on {machine}")
    hashes = sorted(hash_ for _, _, hash_ in fitting)
    cpu = _cpu_wheel(version, recipe) if name == _TORCH and recipe.cpu_builds else None
    if cpu:
        hashes.append(cpu.hash)
    return Pin(name, version, tuple(hashes), min(fitting)[1], cpu, name in cuda_only)


def _tags(python: str, machine: str) -> list[Tag]:
    return wheel_tags(python, manylinux_tags(machine, _NEWEST_GLIBC))


def _wheel_tags(wheel: Mapping[str, Any]) -> frozenset[Tag]:
    filename = wheel.get("name") or unquote(urlsplit(wheel["url"]).path.rpartition("/")[2])
    return parse_wheel_filename(filename)[3]


def _cpu_wheel(version: Version, recipe: _Recipe) -> CpuBuild | None:
    """Return torch's CPU build of ``version`` from the user's wheel folders, if one fits."""
    accepted = set(_tags(recipe.python, recipe.platform.partition("-")[0]))
    for folder in wheel_folders():
        for path in sorted(folder.glob(f"torch-{version}+cpu-*.whl")):
            _, built, _, tags = parse_wheel_filename(path.name)
            if tags & accepted:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                return CpuBuild(built, f"sha256:{digest}", path.stat().st_size)
    return None


def _main_versions(pins: Sequence[Pin]) -> tomlkit.items.Table:
    table = tomlkit.table()
    found = {pin.name: str(pin.version) for pin in pins}
    for name in MAIN_PACKAGES:
        if name in found:
            table[name] = found[name]
    return table


def _record_evidence(target: Any, id_: str) -> None:
    """Put the evidence of this resolution in the place of an earlier one; stronger rows fall.

    What was imported or trained was another lock if this one is new.
    """
    row = tomlkit.table()
    row["level"] = "resolved"
    row["date"] = datetime.datetime.now(datetime.timezone.utc).date()
    row["grpoenv"] = __version__
    row["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    row["command"] = f"grpoenv matrix lock {id_}"
    rows = tomlkit.aot()
    rows.append(row)
    target["evidence"] = rows
