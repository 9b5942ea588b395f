"""Everything that is linked together: the packages, their modules, and what a name in one means."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

from packaging.utils import NormalizedName

from grpoenv.linker.dictionaries import given_keys, is_dictionary
from grpoenv.linker.evaluate import Evaluator
from grpoenv.linker.frames import Frame
from grpoenv.linker.lazy import (
    gathered_names,
    hands_out_others,
    is_lazy,
    lazy_names,
    scanned_folders,
)
from grpoenv.linker.modules import Binding, Module, Opaque, Test
from grpoenv.linker.packages import Packages
from grpoenv.linker.platforms import Platform
from grpoenv.linker.signatures import Signature, field_names, is_dataclass
from grpoenv.linker.stubs import MODULE, is_dtype, is_shown, stub_names
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
from grpoenv.source_tree import SourceTree

__all__ = ["World"]

_GIVING = (
    r"\.NAME\s*(?::[^=\n]+|[,)\]][^=\n]*)?[-+*/|&]?=[^=]",  # assigned, among others or with a hint
    r"(?:setattr|patch)\w*\([^\n]*[\"']NAME[\"']",
    r"[af](?:(?<=\ba)s|(?<=\bf)or)\s+[\w.]+\.NAME\b",
)
"""What gives an object the attribute NAME, each so that its first letter is looked for quickly."""

_OF_CUDA = re.compile(r"_cuda_(?:get|set|init)")


class World(Packages):
    """What names mean in the packages, as far as their sources, versions and the platform tell."""

    def __init__(
        self,
        trees: Iterable[SourceTree],
        *,
        platform: Platform | None = None,
        absent: frozenset[NormalizedName] = frozenset(),
    ) -> None:
        super().__init__(trees, platform=platform, absent=absent)
        self.evaluator = Evaluator(self)
        self.namespaces: dict[str, dict[str, Value]] = {}
        self.patched: dict[tuple[str, str], Value] = {}
        self.open_modules: dict[str, str] = {}
        self._lazy: dict[str, dict[str, str] | None] = {}
        self._exports: dict[str, set[str]] = {}
        self._resolving: set[tuple[str, str]] = set()
        self._lookups: dict[tuple[str, str], Value | Absent] = {}
        self._items: dict[tuple[str, str], dict[str, ast.expr] | Unknown] = {}
        self._public: dict[str, frozenset[str] | None] = {}
        self.lines: dict[Class, tuple[Class, ...]] = {}
        self.held: dict[tuple[Class, str], Value] = {}
        self._to_self: dict[ast.ClassDef, dict[str, list[ast.expr | None]]] = {}
        self._given: set[str] = set()
        self._texts: dict[NormalizedName, bytes | None] = {}
        self._stubs: frozenset[str] | None = None
        self._bodies: dict[FunctionNode, Body] = {}
        self._members: dict[ast.ClassDef, dict[str, FunctionNode | None]] = {}

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
            given = given_keys(statement, registry.name)
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
        own = {each.module.name: each.module for each in line}.values()
        if name in self._given or any(module.gives_any_attribute for module in own):
            return True
        giving = [re.compile(part.replace("NAME", re.escape(name))) for part in _GIVING]
        if any(
            name in module.text and any(pattern.search(module.text) for pattern in giving)
            for module in (*own, *self.parsed)
        ):
            self._given.add(name)
        return name in self._given

    def nobody_knows(self, name: str, provider: NormalizedName) -> bool:
        """Tell whether no source of a package has the word ``name``, and no other gives it."""
        if provider not in self.trees or self.gives(name, ()):
            return False
        if any(name in m.text for m in self.parsed if m.tree.name == provider):
            return False
        if provider not in self._texts:
            self._texts[provider] = _all_text(self.trees[provider])
        text = self._texts[provider]
        return text is not None and name.encode() not in text

    def body_of(self, node: FunctionNode) -> Body:
        """Return what the body of a function shows, read once."""
        if node not in self._bodies:
            self._bodies[node] = body_of(node)
        return self._bodies[node]

    def fields_of(self, line: Sequence[Class]) -> Signature | None:
        """Return the constructor of a dataclass and its bases, None where that is none or unknown."""
        if not line or not is_dataclass(line[0].node):
            return None
        made = [each.node for each in reversed(line) if is_dataclass(each.node)]
        names = [name for node in made for name in field_names(node)]
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
        other = self._otherwise(module, name)
        return found if isinstance(other, Absent) else other

    def _unlisted(self, module: Module, name: str) -> bool:
        """Tell whether a name could only be a dtype of torch, and torch has none of that name."""
        return module.name == MODULE and is_dtype(name) and self.torch_lacks(name)

    def torch_lacks(self, name: str) -> bool:
        """Tell whether neither torch's own module nor its stub shows a name that they would show."""
        module = self.module(MODULE)
        if not isinstance(module, Module) or f"{MODULE}.{name}" in self._entries:
            return False
        if not is_shown(name):
            return False
        if self._stubs is None:
            self._stubs = stub_names(module.tree)
        shown = rf"[\"'.]{name}\b|\b{name}\s*[=:]|(?:\b(?:def|class|as|import)|,)\s+{name}\b"
        listed = name in self._stubs or name in module.bindings
        return bool(self._stubs) and not listed and re.search(shown, module.text) is None

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
            return Absent(module.where(), conditional=bool(bindings))
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
                if self._unlisted(module, name):
                    continue
                own = f"{module.name}.{name}"  # compiled names are hardly those of modules
                return ModuleRef(own) if own in self._entries else Unknown(source.reason)
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
        if self._unlisted(module, name):
            return Absent(module.where())
        if "__getattr__" in module.bindings and not hands_out_others(module, name):
            return Unknown(f"{module.where()} has a __getattr__")
        if reason := self.open_modules.get(module.name) or module.dynamic:
            return Unknown(reason)
        if module.sets_global(name):
            return Unknown(f"a function of {module.where()} may define it")
        if module.is_package and module.tree.name in self.unbuilt:
            return Unknown(f"a build of {module.tree.name} may put a module there")
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


def _all_text(tree: SourceTree) -> bytes | None:
    """Return the sources of a package, one after the other, None where one cannot be read."""
    try:
        return b"\n".join(tree.read(path) for path in tree.paths() if path.endswith(".py"))
    except (OSError, KeyError, ValueError):
        return None
