"""Which modules the packages have, where they are, and their syntax."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.linker.lazy import alias_pattern, puts_modules_below
from grpoenv.linker.modules import Module, Opaque, parse
from grpoenv.linker.platforms import Platform
from grpoenv.linker.standard import lacks_standard_module, lacks_standard_name
from grpoenv.source_tree import UNBUILT, SourceTree

__all__ = ["Packages"]

_EXTENSIONS = (".so", ".pyd", ".dylib")
_SOURCES = ("module", "package")


@dataclass(frozen=True)
class _Entry:
    tree: SourceTree
    path: str
    kind: str


class Packages:
    """The packages to link, and their modules, parsed on first use.

    ``absent`` names the packages that are certainly not installed; of a package that is neither in
    ``trees`` nor there, nothing is known. To one of ``unbuilt`` a build would add modules.
    """

    def __init__(
        self,
        trees: Iterable[SourceTree],
        *,
        platform: Platform | None = None,
        absent: frozenset[NormalizedName] = frozenset(),
    ) -> None:
        self.trees = {tree.name: tree for tree in trees}
        self.platform = platform or Platform()
        self.absent = absent
        self.provided: set[str] = set()
        self.unbuilt: set[NormalizedName] = set()
        self._entries: dict[str, _Entry] = {}
        self._packages: dict[str, SourceTree] = {}
        self._modules: dict[str, Module | Opaque | None] = {}
        self._aliases: dict[str, re.Pattern[str] | None] = {}
        for tree in self.trees.values():
            self._index(tree)

    @property
    def versions(self) -> dict[NormalizedName, Version]:
        """The version of each package."""
        return {name: tree.version for name, tree in self.trees.items()}

    def tree_of(self, module: str) -> SourceTree | None:
        """Return the package that a module belongs to, None where it is none of these."""
        return self._packages.get(module.partition(".")[0])

    def is_absent(self, module: str) -> bool:
        """Tell whether the package that a module belongs to is certainly not there."""
        top = module.partition(".")[0]
        return canonicalize_name(top) in self.absent or lacks_standard_module(
            top, self.platform.python, windows=self.platform.os_name == "nt"
        )

    def lacks_standard(self, path: str) -> str:
        """Return which Python lacks ``module.name`` of the standard library, "" if that is not so."""
        python = self.platform.python
        return "Python {}.{}".format(*python) if lacks_standard_name(path, python) else ""

    def has_module(self, name: str) -> bool | None:
        """Tell whether a module can be imported, None if that is not known."""
        if name in self._entries or name in self.provided:
            return True
        if (tree := self.tree_of(name)) is None:
            return False if self.is_absent(name) else None
        return None if tree.name in self.unbuilt or self._may_be_alias(name) else False

    def _may_be_alias(self, name: str) -> bool:
        """Tell whether the package above a module may put it there without a file."""
        top = name.partition(".")[0]
        if top not in self._aliases:
            module = self.module(top)
            self._aliases[top] = alias_pattern(module) if isinstance(module, Module) else None
        pattern = self._aliases[top]
        if pattern is not None and pattern.fullmatch(name):
            return True
        above = self.module(name.rpartition(".")[0])
        return isinstance(above, Module) and puts_modules_below(above)

    def module(self, name: str) -> Module | Opaque | None:
        """Return a module, parsed on first use; None where there is none of that name."""
        if name not in self._modules:
            self._modules[name] = self._load(name)
        return self._modules[name]

    def submodules(self, package: str) -> Iterator[str]:
        """Yield the names of all modules below a package."""
        start = f"{package}."
        return (name for name in self._entries if name.startswith(start))

    def top_modules(self, packages: Collection[NormalizedName]) -> list[str]:
        """Return the packages and modules that are imported under a name of their own."""
        tops: dict[NormalizedName, list[str]] = {name: [] for name in packages}
        for name, entry in self._entries.items():
            if "." not in name and entry.kind in _SOURCES and entry.tree.name in tops:
                tops[entry.tree.name].append(name)
        found = []
        for package, names in tops.items():
            own = package.replace("-", "_")
            found += [own] if own in names else names
        return found

    def all_modules(self, packages: Collection[NormalizedName]) -> list[str]:
        """Return every module below the top modules of ``packages`` that has a source."""
        return [
            name
            for top in self.top_modules(packages)
            for name in (top, *self.submodules(top))
            if self._entries[name].kind in _SOURCES
        ]

    @property
    def parsed(self) -> list[Module]:
        """The modules that were parsed so far."""
        return [module for module in self._modules.values() if isinstance(module, Module)]

    def parsed_from(
        self, tree: SourceTree, path: str, name: str, is_package: bool
    ) -> Module | Opaque:
        """Return a module of a package from its source."""
        return parse(tree, path, name, is_package)

    def _index(self, tree: SourceTree) -> None:
        for path in tree.paths():
            parts = path.split("/")
            if path.endswith(UNBUILT):
                self.unbuilt.add(tree.name)
            if not all(part.isidentifier() for part in parts[:-1]):
                continue
            stem, dot, ending = parts[-1].partition(".")
            if ending == "py":
                is_package = stem == "__init__"
                name = ".".join(parts[:-1] if is_package else [*parts[:-1], stem])
                kind = "package" if is_package else "module"
            elif dot and path.endswith(_EXTENSIONS):
                name, kind = ".".join([*parts[:-1], stem]), "extension"
            else:
                continue
            if not name or (kind == "extension" and name in self._entries):
                continue
            self._entries[name] = _Entry(tree, path, kind)
            self._packages.setdefault(name.partition(".")[0], tree)
            for end in range(1, len(parts)):  # folders without an __init__ can be imported too
                folder = ".".join(parts[:end])
                self._entries.setdefault(folder, _Entry(tree, "/".join(parts[:end]), "namespace"))

    def _load(self, name: str) -> Module | Opaque | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.kind == "extension":
            return Opaque(name, f"{entry.tree.locate(entry.path)} is compiled", sourceless=True)
        if entry.kind == "namespace":
            reason = f"{entry.tree.locate(entry.path)} is a folder without __init__.py"
            return Opaque(name, reason, sourceless=True)
        return self.parsed_from(entry.tree, entry.path, name, entry.kind == "package")
