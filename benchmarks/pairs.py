"""Classify every pair of unsloth and unsloth_zoo releases: what imports, and why others do not.

    python benchmarks/pairs.py download FOLDER   every release since 2025.2, sources only
    python benchmarks/pairs.py classify FOLDER   writes FOLDER/pairs.json

What each release takes and has is scanned once and kept in FOLDER/scans, so that the second
``classify`` only looks pairs up. ``pairs.json`` holds the releases and, for each distinct failure,
its message and the pairs as ``[unsloth index, zoo index]``; a pair that is not listed imports as
far as the two packages themselves decide it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.distributions import distributions
from grpoenv.linker import InstalledTree
from grpoenv.linker.pairs import Answers, Scan, Taken, first_failure, scan
from grpoenv.uv import run_uv

T = TypeVar("T")
SINCE = Version("2025.2")
IMPORTS = {"unsloth": "unsloth", "unsloth-zoo": "unsloth_zoo"}


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["download", "classify"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"download": download, "classify": classify}[arguments.command](arguments.folder)


def download(folder: Path) -> None:
    """Unpack every release that is not there yet into ``FOLDER/NAME-VERSION``."""
    for name in IMPORTS:
        command = [sys.executable, "-m", "pip", "index", "versions", name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for text in re.search(r"Available versions: (.*)", listing)[1].split(", "):
            target = folder / f"{name}-{text}"
            if Version(text) >= SINCE and not target.is_dir():
                run = run_uv(["pip", "install", "--no-deps", "--target", target, f"{name}=={text}"])
                print(target.name, "ok" if run.status == 0 else run.messages)


def classify(folder: Path) -> None:
    """Scan what is not scanned yet, then look every pair up."""
    started = time.perf_counter()
    (folder / "scans").mkdir(exist_ok=True)
    unsloths, zoos = (releases(folder, name) for name in IMPORTS)
    with ProcessPoolExecutor() as pool:
        theirs = each(pool, partial(scan_kept, "unsloth_zoo", ["unsloth"]), unsloths)
        wanted = needs(theirs)
        modules = sorted({taken.module for taken in wanted})
        back = each(pool, partial(scan_kept, "unsloth", modules), zoos)
        zoo_has = each(pool, partial(answers_kept, wanted), zoos)
        unsloth_has = each(pool, partial(answers_kept, needs(back)), unsloths)
    scanned = time.perf_counter()
    failures: dict[str, list[list[int]]] = {}
    for i, (importer, own) in enumerate(zip(theirs, unsloth_has, strict=True)):
        for j, (other, answers) in enumerate(zip(back, zoo_has, strict=True)):
            failure = first_failure(importer, "unsloth", answers, other, own)
            if failure is not None:
                taken, _ = failure
                failures.setdefault(f"{taken.exception}: {taken.what}", []).append([i, j])
    done = time.perf_counter()
    data = {
        "schema": 1,
        "unsloth": [scanned_release.version for scanned_release in theirs],
        "unsloth_zoo": [scanned_release.version for scanned_release in back],
        "failures": dict(sorted(failures.items(), key=lambda item: -len(item[1]))),
    }
    (folder / "pairs.json").write_text(json.dumps(data, separators=(",", ":")) + "\n")
    failing = sum(map(len, failures.values()))
    print(f"{len(theirs) * len(back)} pairs: {failing} fail at import")
    for message, pairs in data["failures"].items():
        print(f"{len(pairs):7} {message}")
    print(f"scans {scanned - started:.1f} s, pairs {done - scanned:.1f} s")


def releases(folder: Path, name: str) -> list[Path]:
    """Return the folders of the releases of a package, oldest first."""
    start = f"{name}-"
    found = [p for p in folder.iterdir() if re.fullmatch(rf"{start}\d[\w.]*", p.name)]
    return sorted(found, key=lambda path: Version(path.name.removeprefix(start)))


def each(pool: ProcessPoolExecutor, work: Callable[[Path], T], paths: Sequence[Path]) -> list[T]:
    """Do ``work`` for each release, in as many processes as there are cores."""
    return list(pool.map(work, paths))


def needs(scans: Iterable[Scan]) -> list[Taken]:
    """Return everything that any of the releases takes."""
    found = {taken for one in scans for takes in one.takes.values() for taken, _ in takes}
    return sorted(found, key=lambda taken: (taken.module, taken.name, taken.key))


def tree_in(path: Path) -> InstalledTree:
    """Return the release that is unpacked in ``path``."""
    installed = distributions([path])
    return InstalledTree(next(installed[NormalizedName(n)] for n in IMPORTS if n in installed))


def scan_kept(other: str, modules: list[str], path: Path) -> Scan:
    """Return the scan of a release, from its file if that covers ``modules``."""
    file = path.parent / "scans" / f"{path.name}.takes.json"
    if file.is_file():
        data = json.loads(file.read_text())
        if data["modules"] == modules:
            takes = {
                module: tuple((Taken(*row[:3]), row[3]) for row in rows)
                for module, rows in data["takes"].items()
            }
            return Scan(data["version"], takes)
    found = scan(tree_in(path), other, modules)
    rows = {
        module: [[taken.module, taken.name, taken.key, place] for taken, place in takes]
        for module, takes in found.takes.items()
    }
    file.write_text(json.dumps({"version": found.version, "modules": modules, "takes": rows}))
    return found


def answers_kept(wanted: list[Taken], path: Path) -> Answers:
    """Return whether a release has each of ``wanted``, from its file as far as that goes."""
    file = path.parent / "scans" / f"{path.name}.has.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    answers = Answers(tree_in(path), {Taken(*row[:3]): row[3] for row in rows})
    before = len(answers.known)
    for taken in wanted:
        answers.has(taken)
    if len(answers.known) > before:
        kept = [[t.module, t.name, t.key, answer] for t, answer in answers.known.items()]
        file.write_text(json.dumps(kept))
    return Answers(answers.tree, answers.known)


if __name__ == "__main__":
    main()
