"""Names that no statement shows: dtypes of torch, items of a loop, what a LazyLoader leaves."""

from __future__ import annotations

import pytest

from grpoenv.linker import link
from resolver.linker.memory_tree import MemoryTree, tree

STUB = "torch/_C/__init__.pyi"
TORCH = """
from torch._C import *
from torch.functional import *
_DEPRECATED = {"has_cuda": 1}
def __getattr__(name): return _DEPRECATED[name]
for name in dir(): globals()[name] = 1
"""


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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@torch.compiler.disable()\ndef f(): pass", ["torch.compiler"]),
        ("def f(): return torch.compiler.disable()", []),
        ("def f(): return torch.compiler.disable()\nf()", ["torch.compiler"]),
        ("if probe(): torch.compiler", []),
        ("if hasattr(torch, 'compiler'): torch.compiler", []),
        ("try: torch.compiler\nexcept AttributeError: pass", []),
        ("torch.npu", []),
        ("torch.einsum", []),
        ("torch.rms_norm", []),
    ],
)
def test_what_an_import_certainly_takes_of_torch_is_in_its_stubs(
    text: str, found: list[str]
) -> None:
    faults = link([tree("trl", init=f"import torch\n{text}\n"), torch()]).faults
    assert [fault.need.what for fault in faults if fault.sure and not fault.caught] == found


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
