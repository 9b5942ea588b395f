"""What only an option, a script or another package leads to, and what a class or a list has."""

from __future__ import annotations

import importlib
import sys

import pytest
from packaging.utils import NormalizedName

from grpoenv.linker import Platform, ProgramTree, link, link_program
from grpoenv.linker.standard import (
    ADDED,
    REMOVED,
    lacks_standard_module,
    lacks_standard_name,
)
from resolver.linker.test_linker import MemoryTree, broken, linked, only, tree

VLLM, TRANSFORMERS = "vllm", "transformers"
AUTO = """
from collections import OrderedDict
CONFIG_MAPPING_NAMES = OrderedDict[str, str]([("llama", "LlamaConfig"), ("aimv2", "Aimv2Config")])
class AutoConfig:
    @staticmethod
    def register(model_type, config, exist_ok=False): ...
"""


def script(text: str, *trees: MemoryTree) -> list[str]:
    faults = link_program(ProgramTree(text, "train.py"), trees)
    return [f"{fault.exception} {fault.need.what} line {fault.need.line}" for fault in faults]


def test_a_module_that_an_option_imports_is_followed_and_is_no_certain_fault() -> None:
    user = "def load(fast):\n    if fast:\n        from .engine import start\n"
    engine = "from unsloth_zoo.tokenizer import get\ndef start(): pass\n"
    fault = only(link([tree("unsloth", init=user, engine=engine), tree("unsloth_zoo")]))
    assert (fault.exception, fault.need.what) == (
        "ModuleNotFoundError",
        "unsloth_zoo.tokenizer",
    )
    assert (fault.phase.value, fault.sure, fault.start) == ("option", False, "unsloth.engine")


def test_tests_that_came_along_in_a_wheel_are_not_followed() -> None:
    broken_test = "from unsloth_zoo import gone\n"
    assert link([tree("unsloth", tests__t=broken_test), tree("unsloth_zoo")]).faults == ()


def test_another_package_is_followed_where_it_is_named_as_a_consumer() -> None:
    trees = [tree("recipe", init="from unsloth_zoo import gone\n"), tree("unsloth_zoo")]
    consumers = frozenset([NormalizedName("recipe")])
    assert link(trees).faults == ()
    assert broken(link(trees, consumers=consumers)) == ["ImportError unsloth_zoo.gone"]


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("AutoConfig.register('aimv2', C)", ["ValueError"]),
        ("AutoConfig.register('aimv2', C, exist_ok=True)", []),
        ("AutoConfig.register('ovis', C)", []),
        ("AutoTokenizer.register('aimv2', C)", []),
    ],
)
def test_a_config_name_that_transformers_has_cannot_be_registered_again(
    call: str, found: list[str]
) -> None:
    user = f"from transformers.auto import AutoConfig\n{call}\n"
    linkage = link([tree(VLLM, init=user), tree(TRANSFORMERS, auto=AUTO)])
    assert [name.partition(" ")[0] for name in broken(linkage)] == found


@pytest.mark.parametrize(
    ("parameters", "call", "taken"),
    [
        ("", "", True),
        ("min_version=LEAST", "", False),
        ("min_version=LEAST", "'0.9'", True),
        ("min_version=None", "min_version='1.5'", False),
        ("min_version=None", "min_version='0.9'", True),
        ("min_version=None", "", True),
        ("check_device=LEAST", "", True),
    ],
)
def test_what_is_installed_is_available_from_the_least_version_on(
    parameters: str, call: str, taken: bool
) -> None:
    answer = f"LEAST = '1.5'\ndef is_unsloth_zoo_available({parameters}):\n    return probe()\n"
    user = (
        f"from .checks import is_unsloth_zoo_available\nif is_unsloth_zoo_available({call}):\n"
        "    from unsloth_zoo import gone\n"
    )
    linkage = link([tree("unsloth", init=user, checks=answer), tree("unsloth_zoo", "1.0")])
    assert bool(broken(linkage)) == taken


def test_a_tuple_is_true_to_who_asks_whether_something_is_available() -> None:
    answer = "def check(name, more=False):\n    if more:\n        return 1, 2\n    return {}\n"
    user = (
        "from unsloth_zoo import check\n_there = check('mergekit')\n"
        "def is_mergekit_available():\n    return _there\n"
        "if is_mergekit_available():\n    import mergekit\n"
    )
    absent = frozenset([NormalizedName("mergekit")])
    for last, found in (("1, None", ["ModuleNotFoundError mergekit"]), ("more", [])):
        giver = tree("unsloth_zoo", init=answer.format(last))
        assert broken(link([tree("unsloth", init=user), giver], absent=absent)) == found


def test_an_answer_that_somebody_mends_is_not_taken_for_what_it_was() -> None:
    answers = (
        "def check(name):\n    return 1, None\n_there = check('mergekit')\n"
        "def is_mergekit_available():\n    return _there\n"
    )
    user = (
        "import unsloth_zoo.answers as a\nfor name in list(vars(a)):\n    {}\n"
        "if a.is_mergekit_available():\n    import mergekit\n"
    )
    absent = frozenset([NormalizedName("mergekit")])
    for line, found in (("setattr(a, name, False)", 0), ("print(name)", 1)):
        trees = [tree("unsloth", init=user.format(line)), tree("unsloth_zoo", answers=answers)]
        assert len(broken(link(trees, absent=absent))) == found


@pytest.mark.parametrize(
    ("use", "body", "found"),
    [
        ("Engine.send()", "    def send(): pass", []),
        ("Engine.send()", "    send = f()", []),
        ("Engine.send()", "    def init(self): pass", ["AttributeError unsloth_zoo.Engine.send"]),
        ("Engine.send()", "    pass\nEngine.send = 1", []),
        ("Engine.send = 1", "    pass", []),
        ("Engine.__name__", "    pass", []),
    ],
)
def test_an_attribute_that_a_class_does_not_have_is_a_fault(
    use: str, body: str, found: list[str]
) -> None:
    assert broken(
        linked(f"from unsloth_zoo import Engine\n{use}\n", f"class Engine:\n{body}\n")
    ) == (found)


def test_a_class_with_an_unknown_base_or_a_decorator_may_have_any_attribute() -> None:
    user = "from unsloth_zoo import A, B\nA.x\nB.x\n"
    giver = "class A(Unknown):\n    pass\n@decorate\nclass B:\n    pass\n"
    assert broken(linked(user, giver)) == []


def test_torch_without_cuda_has_no_functions_of_cuda() -> None:
    user = "import torch\nstream = torch._C._cuda_getCurrentRawStream\n"
    trees = [
        tree("bitsandbytes", init=user),
        MemoryTree(
            NormalizedName("torch"),
            tree("torch").version,
            {"torch/__init__.py": b"", "torch/_C.cpython-311-x86_64-linux-gnu.so": b""},
        ),
    ]
    assert broken(link(trees)) == []
    without = Platform(torch_without_cuda=True)
    assert broken(link(trees, platform=without)) == [
        "AttributeError torch._C._cuda_getCurrentRawStream"
    ]


def test_the_standard_library_is_not_the_same_everywhere() -> None:
    assert lacks_standard_module("resource", (3, 11, 0), windows=True)
    assert not lacks_standard_module("resource", (3, 11, 0), windows=False)
    assert lacks_standard_module("imp", (3, 12, 0), windows=False)
    assert not lacks_standard_module("imp", (3, 11, 9), windows=False)
    windows = Platform.named("3.11.0", "Windows", "AMD64")
    trees = [tree("unsloth", init="import resource\n")]
    assert broken(link(trees, platform=windows)) == ["ModuleNotFoundError resource"]
    assert broken(link(trees)) == []


@pytest.mark.parametrize(
    ("source", "found", "old", "new"),
    [
        ("from typing import Unpack\n", "ImportError typing.Unpack", True, False),
        ("import typing as t\nprint(t.Unpack)\n", "AttributeError typing.Unpack", True, False),
        ("import tomllib\n", "ModuleNotFoundError tomllib", True, False),
        ("from pkgutil import ImpLoader\n", "ImportError pkgutil.ImpLoader", False, True),
    ],
)
def test_a_name_of_the_standard_library_is_missed_where_python_lacks_it(
    source: str, found: str, old: bool, new: bool
) -> None:
    for python, lacks in (("3.10.13", old), ("3.11.7", False), ("3.12.1", new)):
        platform = Platform.named(python, "Linux", "x86_64")
        assert broken(link([tree("unsloth", init=source)], platform=platform)) == [found] * lacks


def test_who_asks_which_python_it_is_misses_nothing_of_the_standard_library() -> None:
    guarded = "import sys, typing\nif sys.version_info >= (3, 11):\n    from typing import Self\n"
    guarded += "try:\n    from typing import override\nexcept ImportError:\n    override = None\n"
    guarded += "if hasattr(typing, 'TypeIs'):\n    from typing import TypeIs\n"
    oldest = Platform.named("3.10.13", "Linux", "x86_64")
    assert broken(link([tree("unsloth", init=guarded)], platform=oldest)) == []


def test_this_python_has_the_names_that_its_version_should_have() -> None:
    for path in (*ADDED, *REMOVED):
        module, _, name = path.rpartition(".")
        there = hasattr(importlib.import_module(module), name)
        assert there is not lacks_standard_name(path, sys.version_info[:3]), path


def test_a_question_is_answered_where_only_an_option_asks_it() -> None:
    user = "def f():\n    from unsloth_zoo import is_new\n    if not is_new():\n        {}\n"
    giver = "def is_new():\n    return True\n"
    use = "from unsloth_zoo import gone"
    assert linked(user.format(use), giver).faults == ()
    assert len(linked(user.format(use), giver.replace("True", "unknown()")).faults) == 1


def test_a_function_that_texts_alone_call_is_no_finding() -> None:
    function = "def patched():\n    from unsloth_zoo import gone\n"
    text = "LINE = 'patched(self)'\n"
    assert linked(function + text).faults == ()
    assert len(linked(function).faults) == 1
    assert len(linked(function + text + "f = patched\n").faults) == 1


BATCHES = """
RL_FUNCTIONS = {}
def grpo_trainer_compute_loss(name, function):
    def compute_loss(self, model, inputs):
        return [x["prompt"] for x in inputs], %s
    return compute_loss
"""


@pytest.mark.parametrize(
    ("reads", "prepare", "found"),
    [
        ('inputs["prompt_ids"]', "return inputs", 1),
        ('inputs["prompt_ids"]', "return self.made(inputs)", 0),
        ("inputs[0]", "return inputs", 0),
    ],
)
def test_a_loss_that_reads_by_names_does_not_fit_a_batch_that_stays_a_list(
    reads: str, prepare: str, found: int
) -> None:
    trainer = f"class GRPOTrainer:\n    def _prepare_inputs(self, inputs):\n        {prepare}\n"
    linkage = link(
        [
            tree("unsloth", models__rl_replacements=BATCHES % reads),
            tree("trl", trainer__grpo_trainer=trainer),
        ]
    )
    faults = [fault for fault in linkage.faults if "_prepare_inputs" in fault.need.what]
    assert [(f.exception, f.phase.value, f.sure) for f in faults] == (
        [("TypeError", "run", True)] * found
    )


def test_a_program_is_linked_with_what_it_imports() -> None:
    trl = tree("trl", "0.13.0", init="class DPOConfig:\n    def __init__(self, beta): pass\n")
    text = (
        "from trl import GRPOConfig\nimport trl\ntrl.DPOConfig(beta=1)\n\n"
        "def main():\n    trl.DPOConfig(gamma=1)\n\n"
        "try:\n    from trl import Missing\nexcept ImportError:\n    pass\n"
    )
    assert script(text, trl) == [
        "ImportError trl.GRPOConfig line 1",
        "TypeError trl.DPOConfig line 6",
    ]


def test_a_module_is_a_module_whatever_else_a_compiled_one_hands_out() -> None:
    user = tree("unsloth", init="import torch\ntorch.amp.gone()\ntorch.other.gone()\n")
    torch = tree("torch", init="from torch._C import *\n", amp="")
    torch.files["torch/_C.cpython-311-x86_64-linux-gnu.so"] = b""
    assert broken(link([user, torch])) == ["AttributeError torch.amp.gone"]


REFUSES = """
from importlib import metadata
from packaging.version import parse
def ask():
    try:
        found = parse(metadata.version("torchao"))
    except metadata.PackageNotFoundError:
        return False
    if found < parse("0.16.0"):
        {}
    return True
"""
RAISE = 'raise ImportError(f"Found torchao {found}, which is too old")'


@pytest.mark.parametrize(
    ("version", "what", "found"),
    [
        ("0.14.1", RAISE, ["ImportError torchao"]),
        ("0.16.0", RAISE, []),
        ("0.14.1", "return False", []),
        ("0.14.1", "raise ImportError('Found something old')", []),
    ],
)
def test_a_function_that_raises_because_of_a_version_is_a_fault_of_the_option(
    version: str, what: str, found: list[str]
) -> None:
    faults = link([tree("peft", checks=REFUSES.format(what)), tree("torchao", version)]).faults
    assert [f"{fault.exception} {fault.need.what}" for fault in faults] == found
    assert not any(fault.sure for fault in faults)


def test_what_the_stack_imports_where_it_is_installed_is_followed() -> None:
    user = (
        "from importlib import util\nif util.find_spec('torchao') is not None:\n"
        "    import torchao\n"
    )
    torchao = tree("torchao", init="from torch.nn import ScalingType\n")
    fault = only(link([tree("peft", init=user), torchao, tree("torch", nn="")]))
    assert (fault.phase.value, fault.sure, fault.start) == ("import", True, "peft")


@pytest.mark.parametrize(("version", "found"), [("2.5", []), ("2.4", ["ImportError torch.new"])])
def test_versions_are_compared_by_an_operator_that_a_call_names(
    version: str, found: list[str]
) -> None:
    user = (
        "import operator\nfrom .utils import compare_version\n"
        "if compare_version('torch', operator.lt, '2.5'):\n    from torch import new\n"
    )
    helper = "def compare_version(package, operator, target): return probe()\n"
    trees = [tree("unsloth", init=user, utils=helper), tree("torch", version)]
    assert broken(link(trees)) == found


def test_the_kernels_that_an_option_takes_are_followed_and_no_others() -> None:
    kernels = tree(
        "liger-kernel",
        init="",
        transformers__monkey_patch="from transformers import gone\n",
        transformers__trainer="from transformers import gone_too\n",
    )
    fault = only(link([kernels, tree("transformers"), tree("trl")]))
    assert (fault.need.what, fault.phase.value, fault.sure) == (
        "transformers.gone",
        "option",
        False,
    )


def test_a_folder_without_an_init_is_nothing_that_could_not_be_read() -> None:
    user = tree("unsloth", init="import unsloth.kernels.fast\n", kernels__fast="")
    assert link([user]).unread == {}


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("Layer('a')", ["ValueError kernels.Layer"]),
        ("Layer('a', version=None)", ["ValueError kernels.Layer"]),
        ("Layer('a', version=1)", []),
        ("Layer('a', version=1, revision='main')", ["ValueError kernels.Layer"]),
        ("Layer('a', version=computed())", []),
        ("Layer('a', **options)", []),
    ],
)
def test_arguments_that_a_function_begins_with_refusing(call: str, found: list[str]) -> None:
    layer = (
        "class Layer:\n    def __init__(self, repo, *, revision=None, version=None):\n"
        "        '''Takes one of the two.'''\n"
        "        if revision is not None and version is not None:\n            raise ValueError\n"
        "        if revision is None and version is None:\n            raise ValueError(repo)\n"
    )
    user = f"from kernels import Layer\n{call}\n"
    assert broken(link([tree("transformers", init=user), tree("kernels", init=layer)])) == found


def test_a_name_behind_a_condition_is_not_missed_where_the_same_may_lead() -> None:
    giver = "if False:\n    class Dummy: pass\n"
    taken = "from unsloth_zoo import Dummy\n"
    assert broken(linked(taken, giver)) == ["ImportError unsloth_zoo.Dummy"]
    option = f"def f(self):\n    if self.enabled:\n        {taken}"
    assert linked(option, giver).faults == ()
    assert [fault.need.what for fault in linked(option, "").faults] == ["unsloth_zoo.Dummy"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("trl>=0.15,<0.18", ["ImportError trl"]),
        ("trl>=0.15", []),
        ("deepspeed>=1", []),
        ("no requirement at all", []),
    ],
)
def test_a_version_that_a_program_requires_of_itself(asked: str, found: list[str]) -> None:
    user = f"from transformers.utils.versions import require_version\nrequire_version({asked!r})\n"
    versions = "def require_version(text, hint=None):\n    compare(text)\n"
    user_tree, trl = tree("unsloth", init=user), tree("trl", "0.19.1")
    theirs = tree("transformers", utils____init__="", utils__versions=versions)
    assert broken(link([user_tree, trl, theirs])) == found
    assert broken(link([user_tree, trl])) == found  # whatever transformers there is


def test_versions_that_a_program_requires_through_a_function_of_its_own() -> None:
    user = (
        "from transformers.utils.versions import require_version\n"
        "def check_version(text, mandatory=False):\n"
        "    if skipped() and not mandatory:\n        return\n    require_version(text, 'mend it')\n"
        "def other_version(text):\n    require_version('trl', text)\n"
        "def run(args):\n"
        "    check_version('peft')\n"
        "    other_version('trl<0.1')\n"
        "    if args.backend == 'trl':\n        check_version('trl<0.18')\n"
    )
    trees = [tree("unsloth", init=user), tree("trl", "0.19.1"), tree("peft", "0.1")]
    (fault,) = link(trees).faults
    assert (fault.exception, fault.need.line, fault.sure) == ("ImportError", 12, False)
    assert fault.reason == "asks for trl<0.18 and finds 0.19.1"


def test_a_package_that_is_still_to_be_built_lacks_no_module_for_certain() -> None:
    user = "from deepspeed import _C\nimport deepspeed.made\nfrom deepspeed.ops import gone\n"
    sources = tree("deepspeed", ops="kept = 1")
    trees = [tree("unsloth", init=user), sources]
    assert len(link(trees).faults) == 3
    sources.files["deepspeed-1.0.dist-info/UNBUILT"] = b""
    assert broken(link(trees)) == ["ImportError deepspeed.ops.gone"]
