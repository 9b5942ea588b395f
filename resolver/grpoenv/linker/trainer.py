"""The default GRPO run: what happens after the imports, and the trainer that unsloth writes.

unsloth writes a trainer of its own into a file: trl's trainer with some methods replaced, and with
functions whose source it copies, among them the losses of unsloth_zoo's registry. Such a function
loses the module around it. The file has the names that unsloth's template imports, those of trl's
trainer module, and the other copies; a name beside these ends the run with a NameError.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from grpoenv.linker.execute import Interpreter
from grpoenv.linker.frames import Frame
from grpoenv.linker.members import first_given
from grpoenv.linker.modules import Module, source_texts
from grpoenv.linker.syntax import walk
from grpoenv.linker.values import (
    UNKNOWN,
    Class,
    Const,
    Function,
    Instance,
    ModuleRef,
    Partial,
    Source,
    Value,
)

__all__ = [
    "LOADER",
    "OTHER_LOADERS",
    "SETS_VARIABLE",
    "WRITER",
    "follow_default_run",
    "names_in",
]

_TRAINER = "trl.trainer.grpo_trainer"
_CONFIG = "trl.trainer.grpo_config"
_METHODS = ("__init__", "train", "_inner_training_loop", "compute_loss", "_prepare_inputs", "log")
_TEMPLATE = "unsloth.models.rl"
_WRITES = "_patch_trl_rl_trainers"
_PARTS = "unsloth.models.rl_replacements"
WRITER = "unsloth_zoo.compiler"
LOADER = "unsloth.models.llama"
OTHER_LOADERS = ("unsloth.models.vision",)
_KEY = "grpo_trainer"
_LOSS = "compute_loss"
_REMEMBERED = 1_000
"""Functions that write trainers, in all releases that one process may look at."""
_TOP_LEVEL = re.compile(
    r"^(?:class|def)\s+(\w+)|^(\w+)\s*(?::[^=\n]+)?=[^=]|^\s*(?:from\s+[\w.]+\s+)?import\s+([^\n#]+)",
    re.MULTILINE,
)
SETS_VARIABLE = re.compile(r"""environ\[["'](\w+)["']\]\s*=\s*("\w*"|'\w*')?""")
_PLAIN_IMPORT = re.compile(r"^import (\w+) *$", re.MULTILINE)


def follow_default_run(interpreter: Interpreter) -> None:
    """Follow what a GRPO run does with its default options."""
    interpreter.begin_run()
    interpreter.variables = _variables(interpreter)
    world = interpreter.world
    if isinstance(world.module(_PARTS), Module):
        _follow_written_trainer(interpreter)
    elif trainer := _class(interpreter, _TRAINER, "GRPOTrainer"):
        _follow_inherited(interpreter, trainer, _METHODS)


def _variables(interpreter: Interpreter) -> dict[str, Value]:
    """Return what the packages set in the environment of a run with a text model."""
    found: dict[str, Value] = {}
    for module in interpreter.world.parsed:
        if module.name not in OTHER_LOADERS:
            for name, text in _settings(module.text):
                value = Const(text[1:-1]) if module.name == LOADER and text else UNKNOWN
                found[name] = value if found.get(name, value) == value else UNKNOWN
    return found


@lru_cache(_REMEMBERED)
def _settings(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(SETS_VARIABLE.findall(text))


def _class(interpreter: Interpreter, module: str, name: str) -> Class | None:
    if not isinstance(interpreter.world.module(module), Module):
        return None
    found = interpreter.world.lookup(module, name)
    return found if isinstance(found, Class) else None


def _follow_written_trainer(interpreter: Interpreter) -> None:
    """Follow the methods that unsloth puts into its trainer, among the sources it copies."""
    copies = list(_copies(interpreter))
    names: dict[str, Value] = {name: ModuleRef(f"builtins.{name}") for name in dir(builtins)}
    names |= _written_names(interpreter)
    names.update((copy.name, copy) for copy in copies)
    parts = interpreter.world.module(_PARTS)
    assert isinstance(parts, Module)
    for copy in copies:
        scope = Frame(copy.of.module, names, batch=True)
        scope.missing = _left_behind(interpreter, copy, names)
        interpreter.copied[copy.of.node] = scope
        for statement in copy.of.node.body if isinstance(copy.of, Class) else ():
            interpreter.copied[statement] = scope
        if copy.of.module.tree is not parts.tree:
            interpreter.statement(copy.of.node, scope)
    _follow_methods(interpreter, Frame(parts, names, batch=True))


def _follow_methods(interpreter: Interpreter, scope: Frame) -> None:
    """Follow the loss, which every step computes, and the other methods for what calls them."""
    makers = [
        maker
        for maker, _, _ in interpreter.appended.get((_PARTS, "RL_FUNCTIONS", _KEY), [])
        if isinstance(maker, Function)
    ]
    trainer = _class(interpreter, _TRAINER, "GRPOTrainer")
    kept = _own_methods(trainer)
    replaced = {
        method.name: Function(scope.module, method, bound=True)
        for maker in makers
        for method in _inner_methods(maker.node)
        if not kept or method.name in kept  # what trl's class does not have is not replaced
    }
    edited = {name for maker in makers for name in _compared_names(maker.node)} & kept.keys()
    attributes: dict[str, Value] = {**dict.fromkeys(edited, UNKNOWN), **replaced}
    if config := _class(interpreter, _CONFIG, "GRPOConfig"):
        attributes["args"] = Instance(config)
    receiver = Partial(attributes, trainer)
    interpreter.receivers.update((function.node, receiver) for function in kept.values())
    for function in replaced.values():
        interpreter.copied[function.node] = scope
        interpreter.receivers[function.node] = receiver
    if trainer:  # but for the first, which is edited in many places
        _follow_inherited(interpreter, trainer, [n for n in _METHODS[1:] if n not in attributes])
    for name, function in replaced.items():
        if name == _LOSS:
            interpreter.follow(function)
    with interpreter.unsure():
        for function in replaced.values():
            interpreter.follow(function)
        for name, method in kept.items():
            if name not in replaced:
                _check_results(interpreter, method, replaced)


def _check_results(
    interpreter: Interpreter, method: Function, replaced: Mapping[str, Function]
) -> None:
    """Report what a method of trl's unpacks and a method in the place of its own does not return."""
    frame = Frame(method.module)
    for node in walk(method.node):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            call = node.value
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                holder, function = call.func.value, replaced.get(call.func.attr)
                if function and isinstance(holder, ast.Name) and holder.id == "self":
                    interpreter.check_unpacked(node.targets[0], function, frame)


def _follow_inherited(interpreter: Interpreter, trainer: Class, names: Iterable[str]) -> None:
    """Follow methods that a trainer has, its own or those of its bases."""
    for name in names:
        method = interpreter.find_member(trainer, name)
        if isinstance(method, Function):
            interpreter.follow(Function(method.module, method.node, trainer, bound=True))


def _own_methods(cls: Class | None) -> dict[str, Function]:
    """Return the methods of a class, without those of its bases, that are called of an object."""
    return {
        node.name: Function(cls.module, node, cls, bound=True)
        for node in (cls.node.body if cls else ())
        if cls and isinstance(node, ast.FunctionDef)
        if isinstance(first_given(node, cls), Instance)
    }


def _copies(interpreter: Interpreter) -> Iterator[Source]:
    """Yield the functions and classes whose source goes into the written trainer."""
    for value, argument, module in interpreter.appended.get((_PARTS, "RL_PRE_ITEMS", _KEY), []):
        source = value if isinstance(value, Source) else _edited(interpreter, argument, module)
        if source is not None:
            yield source
    writer = interpreter.world.module(_TEMPLATE)
    if isinstance(writer, Module):
        frame = Frame(writer)
        for name, bindings in writer.bindings.items():
            if name.startswith(_WRITES):
                for call, _ in _sources_taken(bindings[-1].node):
                    value = interpreter.world.evaluator.eval(call, frame)
                    if isinstance(value, Source):
                        yield value


def _edited(interpreter: Interpreter, item: ast.expr, module: Module) -> Source | None:
    """Return the source that a function of unsloth takes and edits, None for any other item."""
    if not isinstance(item, ast.Call) or len(item.args) != 1:
        return None
    evaluate, frame = interpreter.world.evaluator.eval, Frame(module)
    editor, edited = evaluate(item.func, frame), evaluate(item.args[0], frame)
    if isinstance(editor, Function) and isinstance(edited, (Function, Class)):
        if _sources_taken(editor.node):
            return Source(edited, edited.node.name)
    return None


@lru_cache(_REMEMBERED)
def _sources_taken(node: ast.AST) -> tuple[tuple[ast.Call, str], ...]:
    """Return the calls of ``inspect.getsource`` below ``node``, with the name each is given."""
    return tuple(
        (call, call.args[0].id)
        for call in walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args
        if call.func.attr == "getsource" and isinstance(call.args[0], ast.Name)
    )


def _written_names(interpreter: Interpreter) -> dict[str, Value]:
    """Return the names that the written trainer has besides the copies."""
    names: dict[str, Value] = {}
    world = interpreter.world
    for module_name, wanted in ((_TEMPLATE, "RLTrainer_replacement"), (WRITER, "import")):
        module = world.module(module_name)
        if isinstance(module, Module):
            for text in module.texts:
                if wanted == "import" or "class Unsloth{" in text:
                    names |= names_in(text)
    for value, argument, _ in interpreter.appended.get((_PARTS, "RL_PRE_ITEMS", _KEY), []):
        if isinstance(value, Const):
            names |= names_in(str(value.value))
        for text in source_texts(argument):
            names |= names_in(text)
    trainer = world.module(_TRAINER)
    if isinstance(trainer, Module):
        names |= dict.fromkeys(trainer.bindings.keys() - names.keys(), UNKNOWN)
    return names


@lru_cache(_REMEMBERED)
def names_in(text: str) -> Mapping[str, Value]:
    """Return the names that a piece of source binds, whether or not it parses."""
    names: dict[str, Value] = {}
    for defined, assigned, imported in _TOP_LEVEL.findall(text):
        names.update((name, UNKNOWN) for name in (defined, assigned) if name)
        for part in imported.strip("() \\").split(","):
            words = part.split()
            if words:
                names[words[-1].partition(".")[0].strip("()")] = UNKNOWN
    names.update((name, ModuleRef(name)) for name in _PLAIN_IMPORT.findall(text))
    return names


def _left_behind(
    interpreter: Interpreter, copy: Source, names: dict[str, Value]
) -> dict[str, Module]:
    """Return the names that the module around a copied source defines and the trainer does not."""
    home = copy.of.module
    trl_is_known = isinstance(interpreter.world.module(_TRAINER), Module)
    left = {}
    for name, bindings in home.bindings.items():
        own = all(
            binding.kind in ("function", "class", "value")
            or interpreter.world.tree_of(binding.module) is home.tree
            for binding in bindings
        )
        if name not in names and (own or trl_is_known):
            left[name] = home
    return left


@lru_cache(_REMEMBERED)
def _compared_names(maker: ast.AST) -> frozenset[str]:
    """Return the texts that ``maker`` compares with: the names of the methods that it edits."""
    compared = (
        c for node in walk(maker) if isinstance(node, ast.Compare) for c in node.comparators
    )
    return frozenset(
        c.value for c in compared if isinstance(c, ast.Constant) and isinstance(c.value, str)
    )


@lru_cache(_REMEMBERED)
def _inner_methods(maker: ast.AST) -> tuple[ast.FunctionDef, ...]:
    """Return the functions inside ``maker`` whose source it takes."""
    taken = {name for _, name in _sources_taken(maker)}
    inside = walk(maker)[1:]
    return tuple(n for n in inside if isinstance(n, ast.FunctionDef) and n.name in taken)
