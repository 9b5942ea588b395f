"""Follow a package as Python would import and run it, without running anything.

Statements are taken in order. A condition that versions or the platform decide takes one branch;
one that cannot be decided takes both, and what is found there is not certain. What a `try` catches
is not a fault, and its handler is followed in its place. Functions are followed where they are
called and can be told.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from packaging.utils import NormalizedName

from grpoenv.linker.expressions import Expressions
from grpoenv.linker.faults import Phase
from grpoenv.linker.flow import Thrown
from grpoenv.linker.imports import Imports
from grpoenv.linker.modules import Module
from grpoenv.linker.statements import Statements
from grpoenv.linker.values import Class, Function

__all__ = ["Interpreter"]

_OF_NO_USER = re.compile(r"(?:^|\.)(?:tests?|testing|examples?|conftest|benchmarks?|setup)(?:\.|$)")
"""Modules that come along in a wheel and that no program imports."""


class Interpreter(Statements, Imports, Expressions):
    """Follows modules and functions and writes every fault it meets into ``faults``."""

    def begin(self, module: str) -> None:
        """Follow a user's first import of a module."""
        self.start = module
        self.import_module(module)

    def begin_run(self) -> None:
        """What follows now is not the import but the run."""
        self.phase = Phase.RUN
        self._called.clear()

    def follow_the_rest(self, packages: frozenset[NormalizedName]) -> None:
        """Follow what nothing certainly imports or calls: the other modules and functions."""
        self.phase, self.sure = Phase.OPTION, False
        self.with_options = packages
        self._most_calls = 1  # each has its own turn
        for name in self.world.all_modules(sorted(packages)):
            if not _OF_NO_USER.search(name):
                self.begin_option(name)
        for module in self.world.parsed:
            if module.tree.name in packages and module.name in self.world.namespaces:
                for statement in module.body:
                    self.follow_statement(statement, module)

    def follow_options(self, starts: Iterable[tuple[str, str]]) -> frozenset[NormalizedName]:
        """Follow imports that an option may lead to; return the packages that are there for them."""
        found = {NormalizedName(name) for name, _ in starts} & self.world.trees.keys()
        self.with_options |= found
        for package, module in starts:
            if package in found and self.world.has_module(module):
                self.begin_option(module)
        return frozenset(found)

    def follow_modules(self, starts: Iterable[tuple[str, str]]) -> frozenset[NormalizedName]:
        """Follow imports that an option may lead to, and all functions there."""
        found = self.follow_options(starts)
        for _, name in starts:
            module = self.world.module(name)
            if isinstance(module, Module) and name in self.world.namespaces:
                for statement in module.body:
                    self.follow_statement(statement, module)
        return found

    def begin_option(self, name: str) -> None:
        """Follow the import of a module that an option may lead to."""
        self.start = name
        try:
            self.import_module(name)
        except Thrown:  # it says itself that it cannot be imported here
            pass

    def follow_statement(self, statement: ast.stmt, module: Module) -> None:
        """Follow the function, or the methods of the class, that ``statement`` defines."""
        for function in _functions(statement, module):
            self.follow(function)


def _functions(statement: ast.stmt, module: Module) -> Iterator[Function]:
    """Yield a function, or the methods of a class."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield Function(module, statement)
    elif isinstance(statement, ast.ClassDef):
        owner = Class(module, statement)
        for inner in statement.body:
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield Function(module, inner, owner)
