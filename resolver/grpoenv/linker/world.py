"""Everything that is linked together: the packages, their modules, and what a name in one means."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.linker.evaluate import Evaluator
from grpoenv.linker.frames import Frame
from grpoenv.linker.lazy import (
    alias_pattern,
    gathered_names,
    is_lazy,
    lazy_names,
    scanned_folders,
)
from grpoenv.linker.modules import Binding, Module, Opaque, Test, parse
from grpoenv.linker.signatures import Signature, field_names, is_dataclass
from grpoenv.linker.sources import SourceTree
from grpoenv.linker.standard import lacks_standard_module
from grpoenv.linker.syntax import Body, FunctionNode, body_of, given_to_self, members_of
from grpoenv.linker.values import (
    UNKNOWN,
    Absent,
    Class,
    Const,
    Function,
    Listing,
    ModuleRef,
    Registry,
    Unknown,
    Value,
)

__all__ = ["Platform", "World", "is_dictionary"]

_EXTENSIONS = (".so", ".pyd", ".dylib")
_DICT_CALLS = ("dict", "OrderedDict")
_SOURCES = ("module", "package")
_GIVING = (
    r"\.NAME\s*(?::[^=\n]+|[,)\]][^=\n]*)?[-+*/|&]?=[^=]",  # assigned, among others or with a hint
    r"(?:setattr|patch)\w*\([^\n]*[\"']NAME[\"']",
    r"[af](?:(?<=\ba)s|(?<=\bf)or)\s+[\w.]+\.NAME\b",
)
"""What gives an object the attribute NAME, each so that its first letter is looked for quickly."""

_OF_CUDA = re.compile(r"_cuda_(?:get|set|init)")


@dataclass(frozen=True)
class Platform:
    """The machine that the code would run on; the default is Linux with an NVIDIA GPU."""

    python: tuple[int, int, int] = (3, 11, 0)
    sys_platform: str = "linux"
    system: str = "Linux"
    os_name: str = "posix"
    machine: str = "x86_64"
    device: str = "cuda"
    torch_without_cuda: bool = False

    @classmethod
    def named(cls, python: str, system: str, machine: str) -> Platform:
        """Return the platform of a Python version (``"3.11.7"``) on a system (``"Linux"``)."""
        release = (*Version(python).release, 0, 0)[:3]
        return cls(
            python=(release[0], release[1], release[2]),
            sys_platform={"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}.get(
                system, system.lower()
            ),
            system=system,
            os_name="nt" if system == "Windows" else "posix",
            machine=machine,
        )


@dataclass(frozen=True)
class _Entry:
    tree: SourceTree
    path: str
    kind: str


class World:
    """The packages to link.

    ``absent`` names the packages that are certainly not installed; of a package that is neither in
    ``trees`` nor there, nothing is known.
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
        self.evaluator = Evaluator(self)
        self.namespaces: dict[str, dict[str, Value]] = {}
        self.patched: dict[tuple[str, str], Value] = {}
        self.open_modules: dict[str, str] = {}
        self.provided: set[str] = set()
        self._entries: dict[str, _Entry] = {}
        self._packages: dict[str, SourceTree] = {}
        self._modules: dict[str, Module | Opaque | None] = {}
        self._lazy: dict[str, dict[str, str] | None] = {}
        self._exports: dict[str, set[str]] = {}
        self._resolving: set[tuple[str, str]] = set()
        self._aliases: dict[str, re.Pattern[str] | None] = {}
        self._lookups: dict[tuple[str, str], Value | Absent] = {}
        self._items: dict[tuple[str, str], dict[str, ast.expr] | Unknown] = {}
        self._public: dict[str, frozenset[str] | None] = {}
        self.lines: dict[Class, tuple[Class, ...]] = {}
        self.held: dict[tuple[Class, str], Value] = {}
        self._to_self: dict[ast.ClassDef, dict[str, list[ast.expr | None]]] = {}
        self._given: set[str] = set()
        self._bodies: dict[FunctionNode, Body] = {}
        self._members: dict[ast.ClassDef, dict[str, FunctionNode | None]] = {}
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

    def has_module(self, name: str) -> bool | None:
        """Tell whether a module can be imported, None if that is not known."""
        if name in self._entries or name in self.provided:
            return True
        if self.tree_of(name) is None:
            return False if self.is_absent(name) else None
        return None if self._may_be_alias(name) else False

    def _may_be_alias(self, name: str) -> bool:
        """Tell whether the package above a module may put it there without a file."""
        top = name.partition(".")[0]
        if top not in self._aliases:
            module = self.module(top)
            self._aliases[top] = alias_pattern(module) if isinstance(module, Module) else None
        pattern = self._aliases[top]
        return pattern is not None and pattern.fullmatch(name) is not None

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

    def lookup(self, module_name: str, name: str) -> Value | Absent:
        """Return what ``name`` means in a module, as an import of it from there would find."""
        key = (module_name, name)
        if self.platform.torch_without_cuda and module_name == "torch._C":
            if _OF_CUDA.match(name):  # seen in builds for the CPU: they have none of these
                return Absent("torch._C of a build without CUDA")
        if key in self.patched:
            return self.patched[key]
        if name in (namespace := self.namespaces.get(module_name, {})):
            return namespace[name]
        if key in self._resolving:
            return Unknown("it is defined by way of itself")
        if key in self._lookups:
            return self._lookups[key]
        self._resolving.add(key)
        try:
            found = self._look(module_name, name)
        finally:
            self._resolving.discard(key)
        self._lookups[key] = found
        return found

    def active(self, tests: tuple[Test, ...], module: Module) -> bool | None:
        """Tell whether all ``tests`` come out as they must, None if that cannot be told."""
        sure = True
        for test in tests:
            if test is None:
                sure = False
                continue
            truth = self.evaluator.truth(test[0], Frame(module))
            if truth is None:
                sure = False
            elif truth is not test[1]:
                return False
        return True if sure else None

    def value_of(self, binding: Binding, name: str, module: Module) -> Value | Absent:
        """Return what one binding gives its name."""
        if binding.kind == "import":
            return ModuleRef(binding.module)
        if binding.kind == "from":
            return self._taken(binding.module, binding.name)
        if binding.kind == "function":
            assert isinstance(binding.node, (ast.FunctionDef, ast.AsyncFunctionDef))
            return Function(module, binding.node)
        if binding.kind == "class":
            assert isinstance(binding.node, ast.ClassDef)
            return Class(module, binding.node)
        if binding.kind == "value":
            assert isinstance(binding.node, ast.expr)
            if is_dictionary(binding.node):
                return Registry(module, name)
            if isinstance(binding.node, ast.List):
                return Listing(module, name)
            return self.evaluator.eval(binding.node, Frame(module))
        return UNKNOWN

    def items(self, registry: Registry) -> dict[str, ast.expr] | Unknown:
        """Return the constant keys of a registry with the last expression that each is given.

        Unknown, with the reason, where other keys may be there too.
        """
        key = (registry.module.name, registry.name)
        if key not in self._items:
            self._items[key] = UNKNOWN
            self._items[key] = self._constant_items(registry)
        return self._items[key]

    def _constant_items(self, registry: Registry) -> dict[str, ast.expr] | Unknown:
        module = registry.module
        found: dict[str, ast.expr] = {}
        for statement, tests in module.statements:
            given = _given(statement, registry.name)
            if given == {} or self.active(tests, module) is False:
                continue
            if given is None:
                return Unknown(f"{module.where(statement)} gives it keys that are no constants")
            found.update(given)
        return found

    def filled_elsewhere(self, registry: Registry) -> str:
        """Return the module, or the function of its own, that gives a registry more keys."""
        name = re.escape(registry.name)
        more = re.compile(rf"\b{name}\s*(?:\[[^\]\n]*\]\s*=[^=]|\.(?:update|setdefault)\()")
        inside = re.compile(
            rf"^\s+{name}\s*(?:\[\w+\]\s*=[^=]|\.(?:update|setdefault)\()", re.MULTILINE
        )
        for module in self.parsed:
            pattern = inside if module is registry.module else more
            if registry.name in module.text and pattern.search(module.text):
                return module.where()
        return ""

    def gives(self, name: str, line: Iterable[Class]) -> bool:
        """Tell whether any source may give an attribute to an object of one of these classes."""
        if name in self._given:
            return True
        own = {each.module.name: each.module for each in line}.values()
        giving = [re.compile(part.replace("NAME", re.escape(name))) for part in _GIVING]
        found = any(module.gives_any_attribute for module in own) or any(
            name in module.text and any(pattern.search(module.text) for pattern in giving)
            for module in (*own, *self.parsed)
        )
        if found:
            self._given.add(name)
        return found

    def body_of(self, node: FunctionNode) -> Body:
        """Return what the body of a function shows, read once."""
        if node not in self._bodies:
            self._bodies[node] = body_of(node)
        return self._bodies[node]

    def fields_of(self, line: Sequence[Class]) -> Signature | None:
        """Return the constructor of a dataclass and its bases, None where that is none or unknown."""
        if not line or not is_dataclass(line[0].node):
            return None
        names = [name for each in reversed(line) for name in field_names(each.node)]
        # by name alone: what is left out may have a default that cannot be seen
        return Signature(tuple(names), 0, (), frozenset(), var_positional=True)

    def given_to_self(self, node: ast.ClassDef) -> dict[str, list[ast.expr | None]]:
        """Return what the methods of a class give to attributes of ``self``, read once."""
        if node not in self._to_self:
            self._to_self[node] = given_to_self(node)
        return self._to_self[node]

    def members_of(self, node: ast.ClassDef) -> dict[str, FunctionNode | None]:
        """Return the members of a class, read once."""
        if node not in self._members:
            self._members[node] = members_of(node)
        return self._members[node]

    def forget(self) -> None:
        """Drop what was concluded of names: something was patched since."""
        self._lookups.clear()

    def _index(self, tree: SourceTree) -> None:
        for path in tree.paths():
            parts = path.split("/")
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
            return Opaque(name, f"{entry.tree.locate(entry.path)} is compiled", compiled=True)
        if entry.kind == "namespace":
            return Opaque(name, f"{entry.tree.locate(entry.path)} is a folder without __init__.py")
        return self.parsed_from(entry.tree, entry.path, name, entry.kind == "package")

    def parsed_from(
        self, tree: SourceTree, path: str, name: str, is_package: bool
    ) -> Module | Opaque:
        """Return a module of a package from its source."""
        return parse(tree, path, name, is_package)

    def _taken(self, module: str, name: str) -> Value | Absent:
        """Return what ``from module import name`` binds; its absence is reported over there."""
        if self.tree_of(module) is None:
            return ModuleRef(f"{module}.{name}")
        if (module, name) in self._resolving and f"{module}.{name}" in self._entries:
            return ModuleRef(f"{module}.{name}")  # a package that imports its own module
        found = self.lookup(module, name)
        if isinstance(found, Absent):
            return Unknown("it is missing where it comes from")
        return found

    def _look(self, module_name: str, name: str) -> Value | Absent:
        module = self.module(module_name)
        if isinstance(module, Opaque):
            if f"{module_name}.{name}" in self._entries:
                return ModuleRef(f"{module_name}.{name}")
            return Unknown(module.reason)
        if module is None:
            return UNKNOWN
        if name == "__version__" and "." not in module_name:
            return Const(str(module.tree.version))
        found = self._bound(module, name)
        if not isinstance(found, Absent):
            return found
        return self._otherwise(module, name)

    def _bound(self, module: Module, name: str) -> Value | Absent:
        bindings = module.bindings.get(name, [])
        live: list[Value | Absent] = []
        for binding in reversed(bindings):
            active = self.active(binding.tests, module)
            if active is False:
                continue
            if binding.kind == "deleted":
                if active:
                    break
                continue
            live.append(self.value_of(binding, name, module))
            if active:
                break
        else:
            starred = self._starred(module, name)
            if not isinstance(starred, Absent):
                live.append(starred)
        if not live:
            return Absent(module.where())
        own = ModuleRef(f"{module.name}.{name}")
        if all(value == own or isinstance(value, Unknown) for value in live) and own in live:
            return own  # a module of the package, whatever else a star may bring
        return live[0] if len(live) == 1 else Unknown("it is defined in more than one way")

    def _starred(self, module: Module, name: str) -> Value | Absent:
        for binding in module.bindings.get("*", []):
            if self.active(binding.tests, module) is False:
                continue
            if self.tree_of(binding.module) is None:
                return Unknown(f"{module.where(binding.node)} imports all of {binding.module}")
            source = self.module(binding.module)
            if source is None:
                continue  # what is missing gives no names; that it is missing is told elsewhere
            if isinstance(source, Opaque):
                return Unknown(source.reason)
            public = self.public_names(source)
            if name.startswith("_") if public is None else name not in public:
                continue
            found = self.lookup(binding.module, name)
            if not isinstance(found, Absent):
                return found
        return Absent(module.where())

    def public_names(self, module: Module) -> frozenset[str] | None:
        """Return a constant ``__all__``, None where there is none or it is put together."""
        if module.name not in self._public:
            self._public[module.name] = self._constant_all(module)
        return self._public[module.name]

    @staticmethod
    def _constant_all(module: Module) -> frozenset[str] | None:
        bindings = module.bindings.get("__all__", [])
        if len(bindings) != 1 or not isinstance(bindings[0].node, (ast.List, ast.Tuple)):
            return None
        if re.search(r"__all__\s*(\+=|\.(extend|append|remove|insert)\()", module.text):
            return None
        elements = bindings[0].node.elts
        return frozenset(
            element.value
            for element in elements
            if isinstance(element, ast.Constant) and isinstance(element.value, str)
        )

    def _otherwise(self, module: Module, name: str) -> Value | Absent:
        """Look for a name where no statement shows it."""
        if f"{module.name}.{name}" in self._entries or f"{module.name}.{name}" in self.provided:
            return ModuleRef(f"{module.name}.{name}")
        if self._may_be_alias(f"{module.name}.{name}"):
            return Unknown(f"{module.where()} may make a module of it")
        if name.startswith("__") and name.endswith("__"):
            return Unknown("every module has such names")
        if self._handed_out(module.name) is not None:
            return self._lazily(module, name)
        if "__getattr__" in module.bindings and not _gives_out_others(module, name):
            return Unknown(f"{module.where()} has a __getattr__")
        if reason := self.open_modules.get(module.name) or module.dynamic:
            return Unknown(reason)
        if module.sets_global(name):
            return Unknown(f"a function of {module.where()} may define it")
        return Absent(module.where())

    def _lazily(self, module: Module, name: str) -> Value | Absent:
        target = self.lazy_target(module.name, name)
        if target is None and name.startswith("_"):
            return Unknown("the lazy loader has attributes of its own")
        if target is None:
            return Absent(module.where())
        if self.module(target) is None:
            return Unknown(f"{target}, where it should come from, is missing")
        found = self.lookup(target, name)
        return Unknown(f"{target} does not show it") if isinstance(found, Absent) else found

    def lazy_target(self, module_name: str, name: str) -> str | None:
        """Return the module that a lazy package would import to hand out ``name``."""
        handed = self._handed_out(module_name)
        return handed.get(name) if handed else None

    def _handed_out(self, module_name: str) -> dict[str, str] | None:
        """Return what a lazy package hands out, by the module it is from; None for any other."""
        if module_name not in self._lazy:
            module, handed = self.module(module_name), None
            if isinstance(module, Module) and is_lazy(module):
                handed = lazy_names(module)
                for folder in scanned_folders(module):
                    handed = self._gathered(folder) | handed
            self._lazy[module_name] = handed
        return self._lazy[module_name]

    def _gathered(self, folder: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self.submodules(folder):
            for exported in self._exported(name):
                found.setdefault(exported, name)
        return found

    def _exported(self, name: str) -> set[str]:
        """Return what a module lists for its lazy package; a package and the one above both ask."""
        if name not in self._exports:
            entry, exported = self._entries[name], set[str]()
            if entry.kind in ("module", "package"):
                try:
                    exported = gathered_names(entry.tree.read(entry.path))
                except (OSError, KeyError, ValueError):
                    pass
            self._exports[name] = exported
        return self._exports[name]


def _gives_out_others(module: Module, name: str) -> bool:
    """Tell whether ``__getattr__`` comes from a call that lists its names, and not this one."""
    for binding in module.bindings["__getattr__"]:
        call = binding.node
        if not isinstance(call, ast.Call):
            return False
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        tables = [argument for argument in arguments if isinstance(argument, ast.Dict)]
        others = [argument for argument in arguments if argument not in tables]
        if not tables or not all(_is_name(other, "__name__") for other in others):
            return False
        for table in tables:
            keys = [key.value for key in table.keys if isinstance(key, ast.Constant)]
            if len(keys) < len(table.keys) or name in keys:
                return False
    return True


def is_dictionary(node: ast.expr) -> bool:
    """Tell whether an expression is a dictionary, or a call that makes one."""
    if isinstance(node, ast.Dict):
        return True
    return isinstance(node, ast.Call) and _makes_dictionary(node.func)


def _makes_dictionary(function: ast.expr) -> bool:
    """Tell whether a call of ``function`` makes one: ``dict``, ``OrderedDict[str, str]``."""
    named = function.value if isinstance(function, ast.Subscript) else function
    return isinstance(named, ast.Name) and named.id in _DICT_CALLS


def _given(statement: ast.stmt, registry: str) -> dict[str, ast.expr] | None:
    """Return the constant keys that a statement gives ``registry``, None if it gives others."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if _is_name(target, registry) and statement.value is not None:
                return _literal(statement.value)
            if isinstance(target, ast.Subscript) and _is_name(target.value, registry):
                if not isinstance(target.slice, ast.Constant) or statement.value is None:
                    return None
                return {str(target.slice.value): statement.value}
    elif isinstance(statement, ast.AugAssign) and _is_name(statement.target, registry):
        return _literal(statement.value)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        if isinstance(call.func, ast.Attribute) and _is_name(call.func.value, registry):
            if call.func.attr == "update":
                return _updated(call)
            if call.func.attr == "setdefault" and isinstance(call.args[0], ast.Constant):
                return {str(call.args[0].value): call.args[-1]}
        elif any(_is_name(argument, registry) for argument in call.args):
            return None
    return {}


def _updated(call: ast.Call) -> dict[str, ast.expr] | None:
    found: dict[str, ast.expr] = {}
    for argument in call.args:
        given = _literal(argument)
        if given is None:
            return None
        found |= given
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    return found | {str(keyword.arg): keyword.value for keyword in call.keywords}


def _literal(node: ast.expr) -> dict[str, ast.expr] | None:
    if isinstance(node, ast.Dict):
        found: dict[str, ast.expr] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant):
                return None
            found[str(key.value)] = value
        return found
    if isinstance(node, ast.List):
        return _paired(node)
    if isinstance(node, ast.Call) and _makes_dictionary(node.func):
        return _updated(node)
    return None


def _paired(node: ast.List) -> dict[str, ast.expr] | None:
    """Return what a list of pairs gives a dictionary, None where it is none of constant keys."""
    found: dict[str, ast.expr] = {}
    for pair in node.elts:
        if not isinstance(pair, ast.Tuple) or len(pair.elts) != 2:
            return None
        if not isinstance(pair.elts[0], ast.Constant):
            return None
        found[str(pair.elts[0].value)] = pair.elts[1]
    return found


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
