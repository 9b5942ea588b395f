"""A trainer of one package on a base class of another: attributes, ``super()``, replaced methods."""

from __future__ import annotations

import pytest

from grpoenv.linker import Phase, link
from resolver.linker.memory_tree import MemoryTree, tree

BASE = """
class Trainer:
    from .more import log_metrics
    def __init__(self, model, processing_class = None):
        self.args, self.state = model, None
    def train(self): pass
    def compute_loss(self, model, inputs): pass
"""
TRAINER = """
from transformers import Trainer
class GRPOTrainer(Trainer):
    def __init__(self, model):
        super().__init__({given})
        self.mode = "train"
    @staticmethod
    def merge(model): return model.weights
    @classmethod
    def load(cls, name): return cls.mapping
    def compute_loss(self, model, inputs):
{loss}
"""
PARTS = """
import inspect
from collections import defaultdict
RL_PRE_ITEMS, RL_FUNCTIONS = defaultdict(list), defaultdict(list)
def logps(name, function):
    if name != "get_logps": return function
    def get_logps(self, model): return model()
    return inspect.getsource(get_logps)
RL_FUNCTIONS["grpo_trainer"].append(logps)
def compute(name, function):
    if name != "compute_loss": return function
    def compute_loss(self, model, inputs):
        {loss}
    return inspect.getsource(compute_loss)
RL_FUNCTIONS["grpo_trainer"].append(compute)
"""
WRITER = 'RLTrainer_replacement = """\nimport os\nclass Unsloth{name}: pass\n"""\n'


def transformers(base: str = BASE, **files: str) -> MemoryTree:
    return tree("transformers", init="from .trainer import Trainer", trainer=base, more="", **files)


def trl(loss: str = "pass", given: str = "model", more: str = "") -> MemoryTree:
    body = "\n".join(" " * 8 + line for line in loss.splitlines())
    text = TRAINER.replace("{loss}", body).replace("{given}", given) + more
    config = "class GRPOConfig: pass"
    return tree(
        "trl", trainer____init__="", trainer__grpo_trainer=text, trainer__grpo_config=config
    )


def unsloth(loss: str) -> MemoryTree:
    parts = PARTS.replace("{loss}", loss)
    init = "import unsloth.models.rl, unsloth.models.rl_replacements, trl.trainer.grpo_trainer"
    return tree(
        "unsloth", init=init, models____init__="", models__rl=WRITER, models__rl_replacements=parts
    )


def found(*trees: MemoryTree, sure: bool = True) -> list[str]:
    """Return what a link of the trees reports, by exception and name."""
    return [
        f"{fault.exception} {fault.need.name}"
        for fault in link(trees).faults
        if not fault.caught and fault.sure is sure and fault.phase is not Phase.IMPORT
    ]


@pytest.mark.parametrize(
    "loss",
    [
        "self.steps",
        "return self.steps()",
        "if self.mode == 'a':\n    self.steps\nelif inputs:\n    self.steps\nelse:\n    raise ValueError",
    ],
)
def test_an_attribute_that_neither_class_defines_nor_anything_gives_ends_the_run(loss: str) -> None:
    assert "AttributeError Trainer.steps" in found(trl(loss), transformers())


@pytest.mark.parametrize(
    "loss",
    [
        "self.state, self.mode, self.log_metrics, self.train",
        "if hasattr(self, 'steps'):\n    self.steps",
        "try:\n    self.steps\nexcept AttributeError:\n    pass",
    ],
)
def test_what_a_base_gives_or_a_trainer_asks_for_first_does_not(loss: str) -> None:
    assert found(trl(loss), transformers()) == []
    assert found(trl(loss), transformers(), sure=False) == []


@pytest.mark.parametrize(
    "base",
    [
        BASE + "    def __getattr__(self, name): return 1\n",
        BASE + "    def setup(self, **more): self.__dict__.update(more)\n",
        BASE + "    def setup(self): self.other, self.steps = 1, 2\n",
        BASE + "    def setup(self, name):\n        setattr(self, name, 1)\n",
        BASE + "Trainer.steps = 3\n",
        BASE.replace("class Trainer:", "class Trainer(Elsewhere):"),
        BASE.replace("class Trainer:", "@elsewhere\nclass Trainer:"),
    ],
)
def test_a_base_that_may_give_any_attribute_hides_none(base: str) -> None:
    assert found(trl("self.steps"), transformers(base)) == []
    assert found(trl("self.steps"), transformers(base), sure=False) == []


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        (BASE, "model, processing_class = 1", []),
        (BASE, "model, tokenizer = 1", ["TypeError __init__"]),
        (BASE, "", ["TypeError __init__"]),
        (BASE.replace("    def __i", "    @deprecate_kwarg('tokenizer', new_name='p')\n    def __i"),
         "model, tokenizer = 1", []),
        (BASE.replace("    def __i", "    @elsewhere\n    def __i"), "model, tokenizer = 1", []),
        (BASE.replace("class Trainer:", "@dataclass\nclass Trainer:"), "1, 2, 3", []),
    ],
)  # fmt: skip
def test_what_super_calls_must_take_what_it_is_given(
    base: str, given: str, expected: list[str]
) -> None:
    assert found(trl(given=given), transformers(base)) == expected


def test_unsloth_replaces_no_method_that_trl_does_not_have() -> None:
    ours = unsloth("return self.get_logps(model)")
    has = "    def get_logps(self, model): pass\n"
    assert found(ours, trl(), transformers()) == ["AttributeError GRPOTrainer.get_logps"]
    assert found(ours, trl(more=has), transformers()) == []


def test_what_trl_gives_a_method_that_unsloth_replaced_must_bind_to_the_new_one() -> None:
    has = "    def get_logps(self, model, size): pass\n"
    calls = "    def score(self): return self.get_logps(1, 2)\n"
    ours, theirs = unsloth("pass"), trl(more=has + calls)
    assert found(ours, theirs, transformers(), sure=False) == ["TypeError get_logps"]
    assert found(theirs, transformers(), sure=False) == []


LOOP = """
class Trainer:
    def _inner_training_loop(self, args):
        for _ in range(3):
            batches = {call}
    def get_batches(self, iterator, size, device): return iterator
"""
PATCH = """
from .losses import get_batches
def patch(Trainer):
    if hasattr(Trainer, "get_batches"):
        Trainer.get_batches = get_batches
"""
CALL = "self.get_batches(1, 2, 3)"


@pytest.mark.parametrize(
    ("call", "taken", "sure", "unsure"),
    [
        (CALL, "self, iterator, size, device", [], []),
        (CALL, "self, iterator, size, *more", [], []),
        (CALL, "self, iterator, size", ["TypeError get_batches"], []),
        (f"{CALL} if args else None", "self, iterator, size", [], ["TypeError get_batches"]),
        (f"1\n            if args:\n                {CALL}", "self, iterator", [], ["TypeError get_batches"]),
        ("self.other(1)", "self, iterator, size", [], []),
    ],
)  # fmt: skip
def test_what_replaces_a_method_must_take_what_the_trainer_gives_it(
    call: str, taken: str, sure: list[str], unsure: list[str]
) -> None:
    losses = f"def get_batches({taken}): return iterator"
    theirs = transformers(LOOP.replace("{call}", call))
    ours = tree("unsloth", init="from .models import patch", models=PATCH, losses=losses)
    assert found(ours, theirs) == sure
    assert found(ours, theirs, sure=False) == unsure


WITH_HELPER = """
from accelerate import Accelerator
class Trainer:
    def __init__(self, model): self.make(model)
    def make(self, model): {made}
    def _inner_training_loop(self, args):
        if is_sagemaker_mp_enabled():
            return args
        {use}
"""
MADE, USE = "self.helper = Accelerator(model)", "self.helper.unwrap(1, keep = False)"


@pytest.mark.parametrize(
    ("made", "use", "taken", "expected", "unsure"),
    [
        (MADE, USE, "self, model", ["TypeError unwrap"], []),
        (MADE, USE, "self, model, keep", [], []),
        (MADE, f"{USE} if args else None", "self, model", [], ["TypeError unwrap"]),
        (f"{MADE}\n        self.helper = model", USE, "self, model", [], []),
        ("self.helper = model.helper", USE, "self, model", [], []),
        ("self.helper: object = Accelerator(model)", USE, "self, model", [], []),
    ],
)
def test_a_helper_that_is_made_once_must_take_what_the_loop_gives_it(
    made: str, use: str, taken: str, expected: list[str], unsure: list[str]
) -> None:
    base = WITH_HELPER.replace("{made}", made).replace("{use}", use)
    base += "def is_sagemaker_mp_enabled(): return probed()\n"
    helper = (
        f"class Accelerator:\n    def __init__(self, model): pass\n    def unwrap({taken}): pass"
    )
    trees = trl(), transformers(base), tree("accelerate", init=helper)
    assert found(*trees) == expected
    assert found(*trees, sure=False) == unsure
    assert found(unsloth("pass"), *trees) == expected


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("None, None", []),
        ("model()", []),
        ("{**model}", ["TypeError get_logps"]),
        ("{'logps': None, 'entropies': None}", ["TypeError get_logps"]),
        ("None, None, None", ["ValueError get_logps"]),
    ],
)
def test_trl_must_be_able_to_unpack_what_unsloths_method_returns(
    returned: str, expected: list[str]
) -> None:
    parts = PARTS.replace("{loss}", "pass").replace("return model()", f"return {returned}")
    ours = tree(
        "unsloth",
        init="import unsloth.models.rl, unsloth.models.rl_replacements, trl.trainer.grpo_trainer",
        models____init__="",
        models__rl=WRITER,
        models__rl_replacements=parts,
    )
    theirs = trl(
        more="    def get_logps(self, model): return 1, 2\n"
        "    def _score(self, model):\n        logps, _ = self.get_logps(model)\n"
    )
    assert found(theirs, ours, sure=False) == expected


NOTED = "model.warnings_issued['tokens'] = True"


@pytest.mark.parametrize(
    ("use", "models", "sure", "unsure"),
    [
        (NOTED, "class Model: pass", ["AttributeError warnings_issued"], []),
        ("tokenizer.gone", "class Model: pass", ["AttributeError gone"], []),
        (NOTED, "class Model:\n    def __init__(self): self.warnings_issued = {}", [], []),
        (f"if hasattr(model, 'warnings_issued'): {NOTED}", "class Model: pass", [], []),
        (f"if model.config.x: {NOTED}", "config = 1", [], []),
        ("model.engine.gone\ninputs.gone\nmodel.made = 1\nmodel.made", "engine = 1", [], []),
    ],
)
def test_an_attribute_of_a_model_of_which_no_source_knows(
    use: str, models: str, sure: list[str], unsure: list[str]
) -> None:
    trees = trl(use), transformers(models_=models)
    assert found(*trees) == sure
    assert found(*trees, sure=False) == unsure
    module = "class Module:\n    def gone(self): pass\n    warnings_issued = {}\n"
    torch = tree("torch", nn____init__="", nn__modules____init__="", nn__modules__module=module)
    assert found(*trees, torch) == []
