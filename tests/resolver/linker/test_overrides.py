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


def torch(stubs: bool = True) -> MemoryTree:
    made = tree("torch", init=TORCH, functional="def einsum(): pass")
    made.files["torch/_C.abi3.so"] = b""
    if stubs:
        made.files[STUB] = b"float16: dtype\ndef rms_norm(x): ...\n"
    return made


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "uint16"])
def test_a_dtype_that_the_stub_does_not_list_is_not_there(name: str) -> None:
    user = tree("trl", init=f"import torch\nX = torch.{name}\n")
    (fault,) = link([user, torch()]).faults
    assert (fault.exception, fault.need.what, fault.sure) == (
        "AttributeError",
        f"torch.{name}",
        True,
    )
    assert not link([user, torch(stubs=False)]).faults


@pytest.mark.parametrize(
    "name", ["float16", "rms_norm", "einsum", "int4", "has_cuda", "npu", "_private", "FloatTensor"]
)
def test_what_the_stub_or_a_module_has_or_is_no_dtype_is_left_alone(name: str) -> None:
    assert not link([tree("trl", init=f"import torch\nX = torch.{name}\n"), torch()]).faults


def test_each_name_of_a_loop_is_looked_up() -> None:
    def found(get: str, call: str = "") -> list[tuple[str, bool]]:
        loop = f"def cast():\n  for name in NAMES: {get}\n{call}\n"
        text = f"import torch\nNAMES = ('float16', 'float8_e8m0fnu', 'rms_norm')\n{loop}"
        faults = link([tree("peft", init=text), torch()]).faults
        return [(fault.need.what, fault.sure) for fault in faults]

    assert found("getattr(torch, name)", "cast()") == [("torch.float8_e8m0fnu", True)]
    assert found("getattr(torch, name)") == [("torch.float8_e8m0fnu", False)]
    assert found("getattr(torch, name, None)", "cast()") == []


def test_a_lazy_loader_adds_no_names_but_the_one_that_is_seen() -> None:
    utils = "from vllm.lazy import LazyLoader\ntorch = LazyLoader('torch', globals(), 'torch')\n"
    vllm = tree("vllm", lazy="class LazyLoader: pass\ndef fill(space): pass", chat_utils=utils)
    taken = "from vllm.chat_utils import torch, resolve_hf_chat_template"
    (fault,) = link([tree("trl", init=taken), vllm]).faults
    assert fault.need.name == "resolve_hf_chat_template"
    vllm.files["vllm/chat_utils.py"] = b"from vllm.lazy import fill\nfill(globals())\n"
    assert not link([tree("trl", init=taken), vllm]).faults
