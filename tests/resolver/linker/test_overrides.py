"""Methods in the place of a foreign base's, in a package and in a script."""

from __future__ import annotations

import pytest

from grpoenv.linker import link
from resolver.linker.memory_tree import MemoryTree, tree
from resolver.linker.test_linked_options import script

BASE = """
class Trainer:
    def train(self):
        for each in self.get_batch_samples(iter([]), 2): self.log({}, 0.0)
    def get_batch_samples(self, epoch_iterator, num_batches): return []
    def log(self, logs, start_time=None): pass
    @property
    def tokenizer(self): return None
    @property
    def model(self): return None
    @model.setter
    def model(self, value): pass
"""


def transformers() -> MemoryTree:
    return tree("transformers", init="from .trainer import Trainer", trainer=BASE)


def warned(body: str) -> list[str]:
    """Return what is said of a trainer of trl with that body; all of it is uncertain."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    trainer = f"from transformers import Trainer\nclass DPOTrainer(Trainer):\n{lines}"
    faults = link([tree("trl", dpo_trainer=trainer), transformers()]).faults
    assert not any(fault.sure for fault in faults)
    return [f"{fault.exception} {fault.need.name}" for fault in faults]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def log(self, logs): pass", ["TypeError Trainer.log"]),
        ("def log(self): pass", []),  # was never meant for the base's calls
        ("def log(self, logs, *more): pass", []),
        ("def log(self, logs, start_time): pass", []),
        ("def log(self, logs): pass\ndef train(self): self.log({})", []),  # nobody else calls it
        (
            "def get_batch_samples(self, model, batch): pass",
            ["TypeError Trainer.get_batch_samples"],
        ),
        ("def get_batch_samples(self, iterator, num_batches): pass", []),
        ("def __init__(self): self.tokenizer = 1", ["AttributeError Trainer.tokenizer"]),
        ("def __init__(self): self.model = 1", []),
        ("tokenizer = None\ndef __init__(self): self.tokenizer = 1", []),
    ],
)
def test_a_method_is_held_against_the_base_that_calls_it(body: str, expected: list[str]) -> None:
    assert warned(body) == expected


def test_a_class_of_a_script_is_held_against_its_base() -> None:
    own = "from transformers import Trainer\nclass Own(Trainer):\n    def log(self, logs): pass\n"
    assert script(own, transformers()) == ["TypeError transformers.trainer.Trainer.log line 3"]
