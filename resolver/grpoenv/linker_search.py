"""Where the dynamic linker finds a library that another one needs, told without loading any.

What ``import torch`` has loaded counts as found: the packages built on torch rely on it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from grpoenv.elf import NotReadable, SharedObject, read_shared_object

__all__ = ["LibrarySearch", "system_libraries"]

_LDCONFIG = "/sbin/ldconfig"
_TIMEOUT_S = 2.0
_LINE = re.compile(r"^\s*(?P<name>\S+) \((?P<flags>[^)]*)\) => (?P<path>\S+)$", re.MULTILINE)
_TRUSTED = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
"""What ld.so looks through where it has no cache (man page ld.so, 8)."""


def system_libraries(output: str | None = None) -> dict[str, Path]:
    """Return the 64-bit libraries that ld.so knows by their sonames, from its cache.

    ``output`` stands for what ``ldconfig -p`` prints.
    """
    if output is None:
        try:
            output = subprocess.run(
                [_LDCONFIG, "-p"],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            output = ""
    found: dict[str, Path] = {}
    for match in _LINE.finditer(output):
        if "64" in match["flags"]:
            found.setdefault(match["name"], Path(match["path"]))
    return found


class LibrarySearch:
    """Find libraries as ld.so would in a process of ``interpreter`` that has imported torch."""

    def __init__(
        self,
        interpreter: Path,
        variables: Mapping[str, str],
        system: Mapping[str, Path] | None = None,
    ) -> None:
        self._system = system_libraries() if system is None else system
        self._folders = [Path(entry) for entry in _entries(variables.get("LD_LIBRARY_PATH", ""))]
        self._fallbacks = [*_own_folders(interpreter), *map(Path, _TRUSTED)]
        self._objects: dict[Path, SharedObject] = {}
        self._looked_in: set[Path] = set()
        self.loaded: dict[str, Path] = {}

    def read(self, path: Path) -> SharedObject:
        """Read ``path``, once; raises NotReadable, or OSError."""
        if path not in self._objects:
            self._objects[path] = read_shared_object(path)
        return self._objects[path]

    @property
    def paths(self) -> list[str]:
        """The libraries that were read so far, and the folders that some were looked for in."""
        return [*map(str, self._objects), *map(str, self._looked_in)]

    def load(self, paths: Iterable[Path]) -> None:
        """Take each of ``paths``, and all that it needs and can be found, for loaded."""
        queue = list(paths)
        while queue:
            path = queue.pop()
            if path.name in self.loaded:
                continue
            self.loaded[path.name] = path
            try:
                needing = self.read(path)
            except (OSError, NotReadable):
                continue
            queue += [found for name in needing.needed if (found := self.find(name, needing))]

    def find(self, soname: str, needing: SharedObject) -> Path | None:
        """Return the library ``soname`` that ``needing`` would get, None if it would get none."""
        if soname in self.loaded:
            return self.loaded[soname]
        if found := self._in_folders(soname, (*needing.folders, *self._folders)):
            return found
        return self._system.get(soname) or self._in_folders(soname, self._fallbacks)

    def _in_folders(self, soname: str, folders: Iterable[Path]) -> Path | None:
        for folder in folders:
            self._looked_in.add(folder)
            if (folder / soname).is_file():
                return folder / soname
        return None


def _entries(text: str) -> list[str]:
    return [entry for entry in text.split(":") if entry]


def _own_folders(interpreter: Path) -> tuple[Path, ...]:
    """Return where the interpreter itself looks: a conda one brings its own libstdc++."""
    try:
        return read_shared_object(Path(os.path.realpath(interpreter))).folders
    except (OSError, NotReadable):
        return ()
