"""What classes and their objects have: methods along the bases, and attributes that are given."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from grpoenv.linker.frames import Frame
from grpoenv.linker.syntax import FunctionNode
from grpoenv.linker.values import UNKNOWN, Class, Function, Instance, ModuleRef, Unknown, Value

if TYPE_CHECKING:
    from grpoenv.linker.world import World

__all__ = ["Members", "first_given"]

_MAX_BASES = 20
_PLAIN_DECORATORS = frozenset(("dataclass", "requires", "auto_docstring", "final"))
_HANDS_OUT = ("__getattr__", "__getattribute__", "__slots__")


class Members:
    """Looks up what classes have in a world, without any side effect."""

    def __init__(self, world: World) -> None:
        self.world = world

    def lacks(self, cls: Class, name: str) -> bool:
        """Tell whether a class certainly has no attribute ``name``: it is an ordinary one."""
        if name.startswith("__") or hasattr(type, name) or cls.node.keywords:
            return False
        if cls.node.decorator_list or self.find_member(cls, name) is not None:
            return False
        # whoever gives the class more attributes does it by its name
        return not re.search(rf"\b{cls.node.name}\.{name}\s*=[^=]|setattr\(", cls.module.text)

    def never_has(self, cls: Class, name: str) -> bool:
        """Tell whether a class that builds on one of another package never has an attribute.

        None of its bases defines it, and nothing that was read gives it to an object.
        """
        if name.startswith("__") or hasattr(object, name) or self.find_member(cls, name):
            return False
        line = self.line_of(cls)
        return len({each.module.tree.name for each in line}) > 1 and not self.world.gives(
            name, line
        )

    def held(self, value: Instance, name: str) -> Value:
        """Return the object that an attribute holds, where it is given once and made on the spot."""
        if (value.cls, name) not in self.world.held:
            self.world.held[value.cls, name] = UNKNOWN
            given = [
                (each.module, expression)
                for each in self.line_of(value.cls)
                for expression in self.world.given_to_self(each.node).get(name, [])
            ]
            if len(given) == 1 and isinstance(given[0][1], ast.Call):
                made = self.world.evaluator.eval(given[0][1], Frame(given[0][0]))
                if isinstance(made, Instance):
                    self.world.held[value.cls, name] = made
        return self.world.held[value.cls, name]

    def line_of(self, cls: Class) -> tuple[Class, ...]:
        """Return a class and all its bases if they are ordinary ones, else nothing."""
        if cls not in self.world.lines:
            self.world.lines[cls] = ()  # whatever is its own base
            line = self._with_bases(cls, 0)
            ordinary = not any(self.find_member(cls, name) for name in _HANDS_OUT)
            if ordinary and not any(_is_remade(each) for each in line):
                self.world.lines[cls] = tuple(line)
        return self.world.lines[cls]

    def _with_bases(self, cls: Class, depth: int) -> list[Class]:
        bases = (self.world.evaluator.eval(base, Frame(cls.module)) for base in cls.node.bases)
        found = [cls]
        for base in bases:
            if isinstance(base, Class) and depth < _MAX_BASES:
                found += self._with_bases(base, depth + 1)
        return found

    def member(self, value: Class | Instance, name: str) -> Value:
        """Return a method of a class or an object, looked up along its bases."""
        cls = value.cls if isinstance(value, Instance) else value
        owner = self.find_member(cls, name)
        if isinstance(owner, Function):
            given = first_given(owner.node, cls)
            bound = isinstance(given, Class) or (given is not None and isinstance(value, Instance))
            if any(_decorator_name(d) in ("property", "setter") for d in owner.node.decorator_list):
                return UNKNOWN
            return Function(owner.module, owner.node, owner.owner, bound)
        return UNKNOWN

    def _inherited(self, cls: Class, name: str) -> Value:
        """Return a method that a class has from its bases, bound to an object."""
        for base in self.line_of(cls)[1:]:
            if name == "__init__" and base.node.decorator_list:
                return UNKNOWN  # a dataclass has one that no statement shows
            if name in self.world.members_of(base.node):
                return self.member(Instance(base), name)
        return UNKNOWN

    def find_member(self, cls: Class, name: str, depth: int = 0) -> Function | Unknown | None:
        """Return the method ``name``; None where the class and all its bases have none."""
        if depth > _MAX_BASES:
            return UNKNOWN
        if (cls.module.name, f"{cls.node.name}.{name}") in self.world.patched:
            return UNKNOWN
        members = self.world.members_of(cls.node)
        if name in members:
            method = members[name]
            return UNKNOWN if method is None else Function(cls.module, method, cls)
        for base in cls.node.bases:
            value = self.world.evaluator.eval(base, Frame(cls.module))
            if isinstance(value, ModuleRef) and value.name in ("builtins.object", "abc.ABC"):
                continue
            if not isinstance(value, Class):
                return UNKNOWN
            found = self.find_member(value, name, depth + 1)
            if found is not None:
                return found
        return None

    def _has_field(self, cls: Class, name: str, depth: int = 0) -> bool:
        """Tell whether a class or one of its bases certainly gives its objects a field."""
        for statement in cls.node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if statement.target.id == name and statement.value is not None:
                    return True
        bases = (self.world.evaluator.eval(base, Frame(cls.module)) for base in cls.node.bases)
        return depth < _MAX_BASES and any(
            isinstance(base, Class) and self._has_field(base, name, depth + 1) for base in bases
        )


def first_given(method: FunctionNode, cls: Class) -> Class | Instance | None:
    """Return what a method of a class is given as its first argument without being passed it."""
    decorators = {_decorator_name(decorator) for decorator in method.decorator_list}
    if "staticmethod" in decorators or method.name == "__new__":
        return None
    return cls if "classmethod" in decorators else Instance(cls)


def _is_remade(cls: Class) -> bool:
    """Tell a class that a metaclass or a decorator may have given more than its body shows."""
    decorators = {_decorator_name(decorator) for decorator in cls.node.decorator_list}
    return bool(cls.node.keywords or decorators - _PLAIN_DECORATORS)


def _decorator_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _decorator_name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
