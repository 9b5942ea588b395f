"""The forwards of peft's layers that unsloth_zoo copies, and the names that stay behind."""

from __future__ import annotations

import pytest

from grpoenv.linker import Linkage, link
from resolver.linker.memory_tree import tree

COPIER = """
COMPILED = "def lora_forward(result): ...\\n"
def patch_lora_forwards(options):
    for function, parent, child in layers():
        source = inspect.getsource(function.forward)
        {edit}
        create(child, "from torch import Tensor\\n" + source, parent, dir(eval(parent)))
"""
CUTS = (
    'sought = "kept = {k: kwargs.pop(k) for k in KEYS}"; begin = source.find(sought)'
    '; source = source.replace(source[begin : source.find("\\n", begin)], "")'
)
BRINGS = 'source = "from peft.tuners.lora.layer import KEYS\\n" + source'
LAYER = """
KEYS = ["offsets"]
class Linear:
    def forward(self, x: Tensor, **kwargs):
        kept = {k: kwargs.pop(k) for k in KEYS}  # not for the base layer
        return lora_forward(x, **kept)
"""


def found(copier: str, **layers: str) -> list[str]:
    peft = tree("peft", **{f"tuners__lora__{name}": text for name, text in layers.items()})
    peft.files |= {"peft/tuners/__init__.py": b"", "peft/tuners/lora/__init__.py": b""}
    zoo = tree("unsloth_zoo", compiler=copier)
    linkage: Linkage = link([tree("unsloth", init="import unsloth_zoo"), zoo, peft])
    assert not any(fault.sure for fault in linkage.faults)
    return [f"{f.exception} {f.need.what}: {f.reason.partition(',')[0]}" for f in linkage.faults]


def test_a_forward_found_through_another_module_leaves_the_names_of_its_own_behind() -> None:
    copier = COPIER.format(edit="pass")
    lost = ["NameError peft.tuners.lora.layer.Linear.forward: KEYS"]
    assert found(copier, layer=LAYER) == []
    assert found(copier, layer=LAYER, inc="from .layer import Linear\n") == lost
    assert found(copier, layer=LAYER, inc="from .layer import Linear, KEYS\n") == []


def test_a_name_that_the_copy_is_given_by_hand_does_not_stay_behind() -> None:
    assert found(COPIER.format(edit=BRINGS), layer=LAYER, inc="from .layer import Linear\n") == []


def test_a_line_that_is_cut_out_takes_the_name_it_binds_with_it() -> None:
    lost = ["NameError peft.tuners.lora.layer.Linear.forward: kept"]
    assert found(COPIER.format(edit=CUTS), layer=LAYER) == lost


@pytest.mark.parametrize("name", ["Embedding", "LinearNorm2"])
def test_only_layers_that_are_named_linear_are_copied(name: str) -> None:
    layer = LAYER.replace("class Linear", f"class {name}")
    user = f"from .layer import {name}\n"
    expected = 1 if name.startswith("Linear") else 0
    assert len(found(COPIER.format(edit="pass"), layer=layer, inc=user)) == expected
