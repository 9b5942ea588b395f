"""The default run, whole and of pairs: what certainly ends it, and what may not be said to."""

from __future__ import annotations

import textwrap

import pytest
from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.linker import Phase, link
from grpoenv.linker.run_pairs import RunOutcome, config_sources, default_run, run_sources
from resolver.linker.memory_tree import MemoryTree, tree

PARTS = """
import inspect
import os
from collections import defaultdict
from unsloth_zoo.rl_replacements import RL_REPLACEMENTS
RL_PRE_ITEMS, RL_FUNCTIONS = defaultdict(list), defaultdict(list)
grpo_loss = RL_REPLACEMENTS["grpo_loss"]
slow_loss = RL_REPLACEMENTS.get("slow_loss")
def edited(function):
    return inspect.getsource(function).replace("a", "b")
RL_PRE_ITEMS["grpo_trainer"].append({item})
def logps(name, function):
    def get_logps(self, model, efficient = False):
        if os.environ.get("NEW_MODEL", "0") == "0" and efficient:
            return None
        return model()
    return inspect.getsource(get_logps)
RL_FUNCTIONS["grpo_trainer"].append(logps)
def compute(name, function):
    def compute_loss(self, model, inputs):
{loss}
    return inspect.getsource(compute_loss)
RL_FUNCTIONS["grpo_trainer"].append(compute)
"""
WRITER = 'RLTrainer_replacement = """\nimport os\nimport torch\nclass Unsloth{name}: pass\n"""\n'
ZOO = """
from .device import synchronize
RL_REPLACEMENTS = dict()
def helper(): pass
{loss}
RL_REPLACEMENTS["grpo_loss"] = grpo_loss
"""
CALL = "grpo_loss(self, inputs)"
EFFICIENT = "if get(model, efficient = True) is None:\n    grpo_loss()"
OPEN = "def grpo_loss(trainer, inputs, **kwargs):\n"
MASKED = "def grpo_loss(trainer, inputs, mask = None):\n"
LOSS = "def grpo_loss(trainer, inputs, **kwargs):\n    return 1, 2"


def unsloth(loss: str, item: str = "inspect.getsource(grpo_loss)", **files: str) -> MemoryTree:
    """Return an unsloth whose trainer computes ``loss``."""
    body = textwrap.indent(loss, " " * 8)
    parts = PARTS.replace("{loss}", body).replace("{item}", item)
    return tree(
        "unsloth",
        init="import unsloth.models.rl, unsloth.models.rl_replacements",
        models____init__="",
        models__rl=WRITER,
        models__rl_replacements=parts,
        **files,
    )


def zoo(loss: str = LOSS, **files: str) -> MemoryTree:
    """Return a zoo with one loss."""
    text = ZOO.replace("{loss}", loss)
    return tree("unsloth_zoo", rl_replacements=text, device="def synchronize(): pass", **files)


def both(ours: MemoryTree, theirs: MemoryTree) -> str:
    """Return what ends the run, which a whole link and the reduced pair must agree on."""
    linked = [
        f"{fault.exception} {fault.need.name}"
        for fault in link([ours, theirs]).faults
        if fault.sure and not fault.caught and fault.phase is Phase.RUN
    ]
    failure = pair(ours, theirs).failure
    reduced = f"{failure.exception} {failure.need.name}" if failure else ""
    assert (linked or [""])[0] == reduced
    return reduced


def pair(ours: MemoryTree, theirs: MemoryTree, fields: str = "") -> RunOutcome:
    config = None
    if fields:
        source = f"class GRPOConfig:\n    {fields}".encode()
        files = {"trl/trainer/grpo_config.py": source}
        config = config_sources(MemoryTree(NormalizedName("trl"), Version("1.0"), files))
    return default_run(run_sources(ours), run_sources(theirs), config)


FAILS = {
    "both branches of a choice": (
        "if self.flag:\n    grpo_loss(self)\nelse:\n    grpo_loss()",
        LOSS,
        "TypeError grpo_loss",
    ),
    "both branches of a conditional expression": (
        "x = grpo_loss(self) if self.flag else grpo_loss()",
        LOSS,
        "TypeError grpo_loss",
    ),
    "the branch that a text model takes": (
        "if self.get_logps(model, efficient = True) is not None:\n    pass\nelse:\n    grpo_loss()",
        LOSS,
        "TypeError grpo_loss",
    ),
    "the same through a lambda": (
        "get = lambda m, efficient = False: self.get_logps(m, efficient)\n" + EFFICIENT,
        LOSS,
        "TypeError grpo_loss",
    ),
    "a name in a loop over the batch": (
        CALL,
        "def grpo_loss(trainer, inputs):\n    for x in inputs:\n        synchronize()",
        "NameError synchronize",
    ),
    "a keyword that the zoo deletes and unsloth does not pass": (
        CALL,
        "def grpo_loss(trainer, inputs, **kwargs):\n    del kwargs['sampling']",
        "KeyError grpo_loss['sampling']",
    ),
    "a keyword that the zoo reads": (
        "grpo_loss(self, inputs, other = 1)",
        "def grpo_loss(trainer, inputs, **kwargs):\n    return kwargs['sampling']",
        "KeyError grpo_loss['sampling']",
    ),
    "a keyword that the zoo pops without a default": (
        CALL,
        "def grpo_loss(trainer, inputs, **kwargs):\n    kwargs.pop('sampling')",
        "KeyError grpo_loss['sampling']",
    ),
    "a tuple of another length, whatever stands behind the return": (
        "a, b, c = grpo_loss(self, inputs)",
        "def grpo_loss(trainer, inputs):\n    return 1, 2\n    return 1, 2, 3",
        "ValueError grpo_loss",
    ),
}


@pytest.mark.parametrize("case", FAILS)
def test_what_certainly_ends_a_default_run(case: str) -> None:
    loss, given, expected = FAILS[case]
    assert both(unsloth(loss), zoo(given)) == expected


HOLDS = {
    "one branch of a choice": ("if self.flag:\n    grpo_loss()\nelse:\n    pass", LOSS),
    "a choice that leaves one branch out": ("if self.flag:\n    grpo_loss()", LOSS),
    "the branch of another model": (
        "if self.get_logps(model, efficient = True) is not None:\n    grpo_loss()",
        LOSS,
    ),
    "the branch of a model that may be either": (
        "if self.get_logps(model, efficient = inputs) is None:\n    grpo_loss()",
        LOSS,
    ),
    "a keyword that is passed": (
        "grpo_loss(self, inputs, sampling = 1)",
        "def grpo_loss(trainer, inputs, **kwargs):\n    del kwargs['sampling']",
    ),
    "a keyword that may be among those passed on": (
        "grpo_loss(self, inputs, **more)",
        "def grpo_loss(trainer, inputs, **kwargs):\n    del kwargs['sampling']",
    ),
    "a keyword that was put there before": (
        CALL,
        f"{OPEN}    kwargs['sampling'] = 1\n    return kwargs['sampling']",
    ),
    "a keyword with a default": (
        CALL,
        f"{OPEN}    return kwargs.get('a'), kwargs.pop('b', None)",
    ),
    "a name behind a parameter that is left at None": (
        CALL,
        f"{MASKED}    if mask is not None:\n        helper()\n    return 1, 2",
    ),
    "a name in a loop that the batch does not decide": (
        CALL,
        "def grpo_loss(trainer, inputs):\n    if trainer.flag:\n        synchronize()",
    ),
    "a caught failure": ("try:\n    grpo_loss()\nexcept TypeError:\n    pass", LOSS),
    "a key that may be missing": ("if slow_loss is not None:\n    grpo_loss()", LOSS),
}


@pytest.mark.parametrize("case", HOLDS)
def test_what_does_not_certainly_end_a_default_run(case: str) -> None:
    loss, given = HOLDS[case]
    assert both(unsloth(loss), zoo(given)) == ""


def test_a_source_that_unsloth_edits_leaves_its_names_behind_too() -> None:
    given = "def grpo_loss(trainer, inputs):\n    synchronize()"
    assert both(unsloth(CALL, "edited(grpo_loss)"), zoo(given)) == "NameError synchronize"


def test_a_variable_that_a_text_model_sets_decides_and_one_set_elsewhere_does_not() -> None:
    loss = "if self.get_logps(model, efficient = True) is None:\n    grpo_loss()"
    sets = 'import os\nos.environ["NEW_MODEL"] = "1"\n'
    init = "import unsloth.models.rl, unsloth.models.rl_replacements, unsloth.models."
    for module, expected in (("llama", ""), ("vision", "TypeError grpo_loss"), ("other", "")):
        ours = unsloth(loss, **{f"models__{module}": sets})
        ours.files["unsloth/__init__.py"] = f"{init}{module}".encode()
        assert both(ours, zoo()) == expected


def test_what_depends_on_trl_is_doubted_and_the_fields_of_its_config_decide() -> None:
    loss = (
        'if hasattr(self.args, "loss_type"):\n    grpo_loss(self, inputs)\nelse:\n    grpo_loss()'
    )
    ours, theirs = unsloth(loss), zoo()
    unknown = pair(ours, theirs)
    assert unknown.failure is None
    assert [(fault.exception, fault.sure) for fault in unknown.doubts] == [("TypeError", False)]
    assert pair(ours, theirs, 'loss_type: str = "grpo"') == RunOutcome(None, ())


def test_releases_that_are_the_same_in_what_decides_are_reduced_to_the_same() -> None:
    first, second = zoo(), zoo(other="import os\nx = 1")
    second.version = Version("2.0")
    assert run_sources(first).files == run_sources(second).files
    third = zoo(other='import os\nos.environ["NEW_MODEL"] = "1"')
    assert run_sources(third).files != run_sources(first).files


def test_a_pair_says_where_and_why_its_run_ends() -> None:
    fault = pair(unsloth("a, b, c = grpo_loss(self, inputs)"), zoo()).failure
    assert fault is not None
    assert (fault.provider, fault.need.consumer.path) == (
        "unsloth-zoo",
        "unsloth/models/rl_replacements.py",
    )
    assert fault.reason == "unsloth_zoo/rl_replacements.py:5 returns 2 values, not 3"
