"""Whether calls bind, and what the functions do that are called."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import replace

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from grpoenv.linker.arguments import Handed, handed
from grpoenv.linker.bindings import Bindings
from grpoenv.linker.evaluate import truth_of
from grpoenv.linker.faults import Fault, Faults, Need, Phase
from grpoenv.linker.flow import Thrown, exception_name, last_name, refusals_of
from grpoenv.linker.frames import Frame
from grpoenv.linker.members import first_given
from grpoenv.linker.modules import Module
from grpoenv.linker.reach import Visits
from grpoenv.linker.signatures import CallShape, Signature, misfit, shape_of, signature_of
from grpoenv.linker.syntax import FunctionNode, walk
from grpoenv.linker.values import (
    UNKNOWN,
    Class,
    Const,
    Function,
    Instance,
    Keywords,
    Listing,
    ModuleRef,
    Registry,
    Source,
    Unknown,
    Value,
)
from grpoenv.linker.world import World

__all__ = ["Calls"]

_MAX_CALLS = 40
_QUESTION_CALLS = 3
_QUESTION = re.compile(r"_*(?:is|has|can|supports|should|need|needs|use|uses)_")
_TAKES_OUT = ("pop", "popitem", "clear")
_ELSEWHERE = re.compile(
    r"is_(?:sagemaker_[md]p_enabled|torch_xla_available|(?:torch_)?(?:npu|mlu|musa|hpu|sdaa)_available"
    r"|ipex_available|deepspeed_(?:zero3_)?enabled|fsdp_\w*enabled|fsdp_managed_module)$"
)
_VARIABLES = ("os.environ.get", "os.getenv")


class Calls(Bindings):
    """Follows calls into functions, each as often as more can be found in it.

    ``copied`` has the frame of a function whose source was moved elsewhere, ``receivers`` what the
    first parameter of a function is; ``elements`` and ``appended`` have what lists of modules and
    lists under keys of their dictionaries were given. ``variables`` has the variables of the environment
    that the packages set themselves.
    """

    def __init__(self, world: World, follows: frozenset[str], faults: Faults) -> None:
        super().__init__(world, follows, faults)
        self.copied: dict[ast.AST, Frame] = {}
        self.receivers: dict[ast.AST, Value] = {}
        self.elements: dict[tuple[str, str], list[Value]] = {}
        self.appended: dict[tuple[str, str, str], list[tuple[Value, ast.expr, Module]]] = {}
        self.variables: dict[str, Value] = {}
        self._called: dict[tuple[ast.AST, Handed], Visits] = {}
        self._results: dict[tuple[ast.AST, Handed], Const] = {}
        self._lost: dict[tuple[ast.AST, Handed], list[Fault]] = {}
        self._asked: set[ast.AST] = set()
        self._lambdas: dict[ast.Lambda, ast.FunctionDef] = {}
        self._entered: list[Fault] | None = None
        self._returned: Value | None = None
        self._most_calls = _MAX_CALLS

    def _eval_Call(self, node: ast.Call, frame: Frame) -> Value:
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method == "append" and node.args:
            self._note_append(node, frame)
        value = super()._eval_Call(node, frame)
        if method in _TAKES_OUT:
            self._note_loss(node, frame)
        elif method == "register":
            self._check_registration(node, frame)
        elif isinstance(node.func, ast.Name) and node.func.id == "setattr" and len(node.args) == 3:
            self._setattr(node, frame)
        return value

    def _note_loss(self, node: ast.Call, frame: Frame) -> None:
        """Note that a dictionary has fewer keys than were put there."""
        assert isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name):
            if isinstance(self.name(node.func.value.id, frame), Keywords):
                self.bind(node.func.value.id, UNKNOWN, frame)

    def _note_append(self, node: ast.Call, frame: Frame) -> None:
        """Note ``LISTS["key"].append(value)``: unsloth keeps what goes into trainers that way."""
        assert isinstance(node.func, ast.Attribute)
        holder = node.func.value
        if isinstance(holder, ast.Name):
            listing = self.name(holder.id, frame)
            if isinstance(listing, Listing):
                value = self.world.evaluator.eval(node.args[0], frame)
                self.elements.setdefault((listing.module.name, listing.name), []).append(value)
        if isinstance(holder, ast.Subscript) and isinstance(holder.value, ast.Name):
            if isinstance(holder.slice, ast.Constant) and isinstance(holder.slice.value, str):
                value = self.world.evaluator.eval(node.args[0], frame)
                place = (frame.module.name, holder.value.id, holder.slice.value)
                entry = (value, node.args[0], frame.module)
                known = self.appended.setdefault(place, [])
                if all(argument is not node.args[0] for _, argument, _ in known):
                    known.append(entry)

    def _check_registration(self, node: ast.Call, frame: Frame) -> None:
        """Check that ``AutoConfig.register("name", ...)`` does not take a name that is taken.

        transformers refuses the name of a config of its own (``CONFIG_MAPPING.register``).
        """
        assert isinstance(node.func, ast.Attribute)
        holder = self.world.evaluator.eval(node.func.value, frame)
        if not isinstance(holder, Class) or holder.node.name != "AutoConfig" or not node.args:
            return
        name = self.world.evaluator.eval(node.args[0], frame)
        forced = any(keyword.arg in (None, "exist_ok") for keyword in node.keywords)
        if not isinstance(name, Const) or not isinstance(name.value, str) or forced:
            return
        taken = self._config_names(holder.module.name)
        if name.value in taken:
            what = f"AutoConfig.register({name.value!r})"
            need = Need("call", holder.module.name, what, frame.module, node.lineno)
            reason = f"{taken[name.value]} has a config named {name.value!r}"
            self.fault("ValueError", need, reason, holder.module.tree.name)

    def _config_names(self, module: str) -> dict[str, str]:
        """Return the names of the configs that transformers has, with the place of the list."""
        listed = self.world.lookup(module, "CONFIG_MAPPING_NAMES")
        items = self.world.items(listed) if isinstance(listed, Registry) else UNKNOWN
        if isinstance(items, Unknown) or not isinstance(listed, Registry):
            return {}
        return dict.fromkeys(items, listed.module.where())

    def _setattr(self, node: ast.Call, frame: Frame) -> None:
        evaluate = self.world.evaluator.eval
        holder, name = evaluate(node.args[0], frame), evaluate(node.args[1], frame)
        if isinstance(name, Const) and isinstance(name.value, str):
            self.patch(holder, name.value, UNKNOWN)
        elif isinstance(holder, ModuleRef):
            self.world.open_modules[holder.name] = f"{frame.module.where(node)} sets names of it"
            self.world.forget()

    def call(self, callee: Value, node: ast.Call, frame: Frame) -> Value:
        """Check that a call binds, and follow the function."""
        if isinstance(callee, Source):
            callee = callee.of
        if isinstance(callee, Function):
            self._check_call(callee, node, frame)
            if not self.sure and _is_question(callee.node):
                self._ask(callee)
            known = self._handed(callee, node, frame)
            self.follow(callee, known)
            value = self._results.get((callee.node, known), UNKNOWN)
            if isinstance(value, Const) and not isinstance(value.value, tuple):
                return value
            return self.result_of(callee, value)
        if isinstance(callee, Class):
            maker = self.find_member(callee, "__init__")
            if isinstance(maker, Function):
                maker = Function(maker.module, maker.node, maker.owner, bound=True)
                self._check_call(maker, node, frame, of=callee)
                self.follow(maker)
            elif maker is None:
                self._check_fields(callee, node, frame)
            return Instance(callee)
        return UNKNOWN

    def _known_call(
        self,
        node: ast.Call,
        callee: Value,
        arguments: list[Value],
        keywords: Mapping[str | None, Value],
        frame: Frame,
    ) -> Value | None:
        """Return what is known of a call; in a default run no variable is set from outside.

        Nor is it one on another accelerator or on several of them.
        """
        if arguments and _called(callee) == "require_version":
            self._require_version(arguments[0], node, frame)
        elif arguments and isinstance(callee, Function) and _requires_version(callee.node):
            with self.unsure():
                self._require_version(arguments[0], node, frame)
        if self.phase is Phase.RUN:
            if isinstance(callee, ModuleRef) and callee.name in _VARIABLES and arguments:
                if isinstance(arguments[0], Const):
                    return self._variable(str(arguments[0].value), arguments[1:])
            if isinstance(callee, Function) and _ELSEWHERE.match(callee.node.name):
                return Const(False)
        return super()._known_call(node, callee, arguments, keywords, frame)

    def _require_version(self, asked: Value, node: ast.Call, frame: Frame) -> None:
        """Report ``require_version("torch>=2.4")`` of transformers, where that is not installed."""
        try:
            wanted = Requirement(str(asked.value)) if isinstance(asked, Const) else None
        except InvalidRequirement:
            return
        if wanted and (tree := self.world.trees.get(canonicalize_name(wanted.name))):
            if not wanted.specifier.contains(tree.version, prereleases=True):
                need = Need("refusal", tree.name, "", frame.module, node.lineno)
                reason = f"asks for {wanted} and finds {tree.version}"
                self.fault("ImportError", need, reason, tree.name)

    def _variable(self, name: str, otherwise: list[Value]) -> Value:
        default = otherwise[0] if otherwise else Const(None)
        return self.variables.get(name, default)

    def _check_call(
        self, function: Function, node: ast.Call, frame: Frame, of: Class | None = None
    ) -> None:
        if function.module.tree is frame.module.tree:
            return
        if of is not None and (of.node.keywords or of.node.decorator_list):
            return
        signature: Signature | None = signature_of(function.node)
        if signature is None:
            return
        if function.bound:
            signature = signature.without_first()
        why = misfit(self._shape(node, frame), signature)
        name = of.node.name if of else function.node.name
        if why:
            need = Need("call", function.module.name, name, frame.module, node.lineno)
            reason = f"{name}() of {function.module.where(function.node)} {why}"
            self.fault("TypeError", need, reason, function.module.tree.name)
            return
        self.faults.met("call", f"{function.module.name}:{name}", frame.module)
        if exception := self._refused(function, node, frame):
            need = Need("call", function.module.name, name, frame.module, node.lineno)
            reason = f"{name}() of {function.module.where(function.node)} refuses what it is given"
            self.fault(exception, need, reason, function.module.tree.name)

    def _refused(self, function: Function, node: ast.Call, frame: Frame) -> str:
        """Return what a function raises because of its constant arguments and defaults, or ""."""
        if not (refusals := refusals_of(function.node)):
            return ""
        inside = self.frame_of(function, self._constants(function, node, frame))
        return next(
            (
                exception_name(raised)
                for test, raised in refusals
                if truth_of(self.world.evaluator.eval(test, inside))
            ),
            "",
        )

    def _check_fields(self, cls: Class, node: ast.Call, frame: Frame) -> None:
        """Check that a dataclass has each field that a call gives."""
        fields = self.world.fields_of(self.line_of(cls))
        if fields is None or cls.module.tree is frame.module.tree:
            return
        why = misfit(self._shape(node, frame), fields)
        if why:
            need = Need("call", cls.module.name, cls.node.name, frame.module, node.lineno)
            reason = f"{cls.node.name}() of {cls.module.where(cls.node)} {why}"
            self.fault("TypeError", need, reason, cls.module.tree.name)
        else:
            self.faults.met("call", f"{cls.module.name}:{cls.node.name}", frame.module)

    def _shape(self, node: ast.Call, frame: Frame) -> CallShape:
        """Return how a call passes its arguments, with those of a dictionary that it unpacks."""
        shape = shape_of(node)
        unpacked = [
            self.world.evaluator.eval(k.value, frame) for k in node.keywords if k.arg is None
        ]
        more = {name for each in unpacked if isinstance(each, Keywords) for name in each.names}
        return replace(shape, keywords=(*shape.keywords, *sorted(more - {*shape.keywords})))

    def _ask(self, function: Function) -> None:
        """Find out what a question answers, whether or not it is certain that it is asked."""
        if function.node in self._asked:
            return
        self._asked.add(function.node)
        before = self.faults, self._most_calls, self._certain
        self.faults, self._most_calls, self._certain = Faults(), self._calls + _QUESTION_CALLS, []
        self.sure = True
        self._called.pop((function.node, frozenset()), None)
        try:
            self.follow(function)
        except Thrown:
            pass  # then it has no answer
        finally:
            self.faults, self._most_calls, self._certain = before
            self.sure = False

    def _handed(self, function: Function, node: ast.Call, frame: Frame) -> Handed:
        """Return what a call hands over, where that decides what code for a batch does."""
        if self.phase is not Phase.RUN or not self._parent_of(function).handles_batch:
            return frozenset()
        return self._constants(function, node, frame)

    def _constants(self, function: Function, node: ast.Call, frame: Frame) -> Handed:
        evaluate = self.world.evaluator.eval
        return handed(
            node,
            function,
            frame.module,
            lambda argument: evaluate(argument, frame),
            lambda default: evaluate(default, Frame(function.module)),
        )

    def follow(self, function: Function, known: Handed = frozenset()) -> None:
        """Follow the body of a function, unless that was done or it is not one to follow."""
        if function.module.tree.name not in self.follows or self._calls >= self._most_calls:
            return
        if isinstance(function.node, ast.AsyncFunctionDef):
            return
        if self.world.body_of(function.node).is_generator:
            return
        visit = (function.node, known)
        if self.is_new(self._called.setdefault(visit, [])):
            self._follow_body(function, known)
        else:
            self._certain += self._lost.get(visit, [])

    def _follow_body(self, function: Function, known: Handed) -> None:
        before = (self._returned, self._entered, len(self._certain))
        self._returned, self._entered = None, self._certain
        self._calls += 1
        try:
            self.block(function.node.body, self.frame_of(function, known))
            if isinstance(self._returned, Const):
                self._results[function.node, known] = self._returned
        finally:
            self._lost[function.node, known] = self._certain[before[2] :]
            self._calls -= 1
            self._returned, self._entered, _ = before

    def _parent_of(self, function: Function) -> Frame:
        """Return the frame around a function: where its source was copied to, or was defined."""
        around = self.copied.get(function.node) or self.closures.get(function.node)
        return around or Frame(function.module)

    def _eval_Lambda(self, node: ast.Lambda, frame: Frame) -> Value:
        if node not in self._lambdas:
            made = ast.FunctionDef("<lambda>", node.args, [ast.Return(node.body)], [])
            self._lambdas[node] = ast.fix_missing_locations(ast.copy_location(made, node))
        self.closures[self._lambdas[node]] = frame
        return Function(frame.module, self._lambdas[node])

    def frame_of(self, function: Function, known: Handed = frozenset()) -> Frame:
        """Return a frame for the body of a function, its other parameters unknown."""
        arguments = function.node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        names: dict[str, Value] = {a.arg: UNKNOWN for a in (*positional, *arguments.kwonlyargs)}
        names.update(known)
        receiver = self.receivers.get(function.node)
        if receiver is None and function.owner is not None:
            receiver = first_given(function.node, function.owner)
        if receiver is not None and positional:
            names[positional[0].arg] = receiver
        local = self.world.body_of(function.node).local
        around = self._parent_of(function)
        return Frame(function.module, names, local, around, 1, owner=function.owner)


def _called(callee: Value) -> str:
    """Return the last name of a function, empty for what is none."""
    if isinstance(callee, Function):
        return callee.node.name
    return callee.name.rpartition(".")[2] if isinstance(callee, ModuleRef) else ""


def _requires_version(node: FunctionNode) -> bool:
    """Tell a function that gives its first parameter to ``require_version``, if it does not return."""
    parameters = [*node.args.posonlyargs, *node.args.args]
    if "version" not in node.name or not parameters:
        return False
    return any(
        last_name(call.func) == "require_version" and last_name(call.args[0]) == parameters[0].arg
        for call in walk(node)
        if isinstance(call, ast.Call) and call.args
    )


def _is_question(node: FunctionNode) -> bool:
    """Tell a function whose name asks something, and that takes nothing, from others."""
    arguments = node.args
    takes = arguments.posonlyargs or arguments.args or arguments.vararg or arguments.kwonlyargs
    return not takes and bool(_QUESTION.match(node.name))
