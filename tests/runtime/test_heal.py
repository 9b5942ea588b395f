"""`heal()` on packages that stand for unsloth and its zoo, and on the real ones of March 2025."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import pytest
import torch

from grpoenv_runtime.contracts import era_at
from grpoenv_runtime.heal_stand_ins import loss_of_logits, stand_in
from grpoenv_runtime.heal_zoo import matrix_pair
from grpoenv_runtime.registry import CONTRACTS
from runtime.fake_unsloth import UNSLOTH_2025_03, ZOO_2025_03, run, write_package, write_pair

HEAL = """
import os, grpoenv_runtime
try:
    print(grpoenv_runtime.heal())
except Exception as error:
    print(f"{type(error).__name__}: {error}")
print("UNSLOTH_IS_PRESENT" in os.environ)
"""
IMPORT = "import unsloth.models.rl_replacements as r\nprint('imported', len(r.PRE_ITEMS))\n"
PAIR = "unsloth==2025.3.14 unsloth_zoo==2025.3.12, by `grpoenv install --stack unsloth-2025.3.14`"


def refusal(folder: Path) -> str:
    result = run(folder, HEAL)
    text, sign = result.stdout.splitlines()
    assert sign == "False", result.stderr
    return text


def test_without_healing_the_broken_pair_dies_with_the_key_error(tmp_path: Path) -> None:
    write_pair(tmp_path)
    result = run(tmp_path, "import os\nos.environ['UNSLOTH_IS_PRESENT'] = '1'\n" + IMPORT)
    assert "KeyError: 'grpo_compute_loss_slow'" in result.stderr


def test_the_broken_pair_imports_its_registry_after_heal(tmp_path: Path) -> None:
    write_pair(tmp_path)
    result = run(tmp_path, HEAL + IMPORT)
    done = (
        "unsloth 2025.3.14 with unsloth_zoo 2025.3.9: filled the missing registry keys "
        "grpo_compute_loss_slow"
    )
    assert result.stdout.splitlines() == [done, "False", "imported 2"]
    assert result.stderr.splitlines() == [done]


def test_healing_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    write_pair(tmp_path)
    second = "import grpoenv_runtime\ngrpoenv_runtime.heal()\nprint(grpoenv_runtime.heal().filled)"
    assert run(tmp_path, second).stdout == "()\n"


def test_a_whole_pair_is_left_alone(tmp_path: Path) -> None:
    zoo = ZOO_2025_03 + "RL_REPLACEMENTS['grpo_compute_loss_slow'] = 'text'\n"
    write_pair(tmp_path, zoo="2025.3.12", zoo_code=zoo)
    assert refusal(tmp_path) == (
        "unsloth 2025.3.14 with unsloth_zoo 2025.3.12: no registry key is missing"
    )


def test_an_unsloth_that_expects_another_meaning_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, unsloth="2025.3.15", oldest="2025.3.13")
    assert refusal(tmp_path).startswith(
        "HealError: unsloth 2025.3.15 with unsloth_zoo 2025.3.9 cannot be healed: "
        "grpo_compute_loss changed its signature or meaning between unsloth_zoo 2025.3.9 and "
        "2025.3.13, which this unsloth asks for. Use a tested pair: unsloth=="
    )


def test_a_zoo_whose_function_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    zoo = ZOO_2025_03.replace("mask, beta, advantages):", "mask, advantages):")
    write_pair(tmp_path, zoo_code=zoo)
    assert refusal(tmp_path) == (
        "HealError: unsloth 2025.3.14 with unsloth_zoo 2025.3.9 cannot be healed: the zoo's "
        "grpo_compute_loss takes (old_logits, new_logits, input_ids, mask, advantages), expected "
        "(old_logits, new_logits, input_ids, mask, beta, advantages). "
        f"Use a tested pair: {PAIR}"
    )


def test_a_key_that_nothing_here_can_stand_for_is_refused(tmp_path: Path) -> None:
    zoo = ZOO_2025_03.replace(", grpo_accumulated_loss)", ")")
    write_pair(tmp_path, zoo_code=zoo)
    assert "cannot be healed: nothing here keeps the meaning of grpo_accumulated_loss" in refusal(
        tmp_path
    )


def test_a_key_nobody_knows_is_refused(tmp_path: Path) -> None:
    code = UNSLOTH_2025_03 + "x = RL_REPLACEMENTS['from_the_future']\n"
    write_pair(tmp_path, unsloth_code=code)
    assert "nothing here keeps the meaning of from_the_future" in refusal(tmp_path)


def test_a_name_that_the_zoo_lacks_is_refused(tmp_path: Path) -> None:
    code = UNSLOTH_2025_03 + "from unsloth_zoo.rl_replacements import left_pack_padding\n"
    write_pair(tmp_path, unsloth_code=code)
    assert "the zoo lacks left_pack_padding, which is no key" in refusal(tmp_path)


def test_a_refusal_changes_nothing(tmp_path: Path) -> None:
    code = UNSLOTH_2025_03 + "x = RL_REPLACEMENTS['from_the_future']\n"
    write_pair(tmp_path, unsloth_code=code)
    after = "import unsloth_zoo.rl_replacements as z\nprint(len(z.RL_REPLACEMENTS))\n"
    assert run(tmp_path, HEAL + after).stdout.splitlines()[-1] == "4"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise NotImplementedError('no GPU')", "NotImplementedError: no GPU"),
        ("import missing_package", "ModuleNotFoundError: No module named 'missing_package'"),
    ],
)
def test_a_zoo_that_cannot_be_imported_is_named(tmp_path: Path, code: str, reason: str) -> None:
    write_pair(tmp_path, zoo_code=code)
    assert f"unsloth_zoo.rl_replacements cannot be imported ({reason})" in refusal(tmp_path)


def test_an_unsloth_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, unsloth_code="rl_replacements = (")
    assert "unsloth cannot be read ('(' was never closed" in refusal(tmp_path)


def test_packages_that_are_absent_are_named(tmp_path: Path) -> None:
    assert "unsloth is not installed" in refusal(tmp_path)
    write_package(tmp_path, "unsloth", "2025.3.14", {}, "torch")
    assert "unsloth_zoo is not installed" in refusal(tmp_path)
    write_package(tmp_path, "unsloth_zoo", "2025.3.9", {"rl_replacements.py": ZOO_2025_03})
    assert "metadata does not say which zoo it expects" in refusal(tmp_path)


def test_healing_after_unsloth_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    result = run(tmp_path, "import unsloth\n" + HEAL)
    assert "unsloth is imported already; heal before importing it" in result.stdout


def test_the_matrix_pair_is_that_of_the_matrix() -> None:
    assert matrix_pair("2025.3.14") == PAIR
    newest = matrix_pair("2025.7.1")
    assert newest.startswith("unsloth==2026.")


# --- the stand-ins


def generated_module() -> dict[str, object]:
    """Return the names that a module generated by unsloth starts with."""
    names = {name: getattr(typing, name) for name in typing.__all__}
    return {**names, "torch": torch}


def march_2025_loss(
    old: torch.Tensor, new: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """The formula of that time for an advantage of 1, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for row, column in mask.nonzero().tolist():
        token = ids[row, column]
        logp = new[row, column].double().log_softmax(0)[token]
        gap = old[row, column].double().log_softmax(0)[token] - logp
        ratio = (logp - logp.detach()).exp()
        total = total - (ratio - beta * (gap.exp() - gap - 1))
    return total / mask.sum()


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_the_slow_loss_s_text_defines_the_loss_of_that_time(beta: float) -> None:
    text = stand_in("grpo_compute_loss_slow", "2025.3.11")
    assert isinstance(text, str)
    module = generated_module()
    exec(text, module)  # noqa: S102 - what unsloth's generated file does with it
    generator = torch.Generator().manual_seed(3)
    old, new = (torch.randn(3, 4, 9, generator=generator) for _ in range(2))
    new.requires_grad_()
    ids = torch.randint(9, (3, 4), generator=generator)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    function = module["grpo_compute_loss_slow"]
    assert callable(function)
    loss, length, kl = function(old, new, ids, mask, beta, torch.ones(3))
    expected = march_2025_loss(old, new, ids, mask, beta)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(loss, new)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected, new)[0], rtol=1e-4, atol=1e-6)
    assert float(length) == pytest.approx(5 / 3)
    assert not kl.requires_grad and float(kl) > 0


def test_stand_ins_for_functions_keep_the_parameters_of_every_era() -> None:
    healed = 0
    for key, contract in CONTRACTS.items():
        for era in contract.eras:
            found = stand_in(key, era.since)
            if callable(found):
                healed += 1
                assert tuple(inspect.signature(found).parameters) == era.parameters
                assert found.__name__ == key
    assert healed == 7


def test_no_stand_in_is_offered_for_another_meaning() -> None:
    contract = CONTRACTS["grpo_compute_loss_slow"]
    offered = [era.since for era in contract.eras if stand_in(contract.key, era.since)]
    assert offered == ["2025.3.11"]
    assert era_at(contract.eras, "2025.3.12") == contract.eras[0]


# --- the real packages


def unpacked(tmp_path: Path, requirement: str) -> Path:
    wheels = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(wheels)]
    subprocess.run([*command, requirement], check=True, timeout=300)
    target = tmp_path / "site"
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    return target


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="the zoo imports numpy")
@pytest.mark.parametrize("unsloth", ["2025.3.11", "2025.3.12", "2025.3.13", "2025.3.14"])
def test_the_real_broken_pair_imports_its_registry_after_heal(tmp_path: Path, unsloth: str) -> None:
    # unsloth's own __init__ wants a GPU and transformers; the module that dies reads only torch.
    site = unpacked(tmp_path, "unsloth_zoo==2025.3.9")
    unpacked(tmp_path, f"unsloth=={unsloth}")
    # The registry module also imports this one, which needs the trl of its day.
    data = site / "unsloth_zoo" / "dataset_utils.py"
    data.write_text("def sft_prepare_dataset(self, dataset): raise NotImplementedError\n")
    load = (
        "import importlib.machinery, sys, types\n"
        f"site = {str(site)!r}\n"
        "for name in ('unsloth', 'unsloth.models'):\n"
        "    package = types.ModuleType(name)\n"
        "    package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)\n"
        "    package.__path__ = [site + '/' + name.replace('.', '/')]\n"
        "    sys.modules[name] = package\n"
        "import unsloth.models.rl_replacements as r\n"
        "print(len(r.RL_PRE_ITEMS['grpo_trainer']))\n"
        "import torch, numpy as np, os\n"
        "torch.compile = lambda *a, **k: (lambda function: function)\n"
        "names = {'torch': torch, 'np': np, 'os': os, 'torch_compile_options': {}}\n"
        "exec('\\n'.join(r.RL_PRE_ITEMS['grpo_trainer']), names)\n"
        "g = torch.Generator().manual_seed(0)\n"
        "old, new = torch.randn(2, 3, 5, generator=g), torch.randn(2, 3, 5, generator=g)\n"
        "ids, mask = torch.tensor([[1, 2, 3], [4, 0, 1]]), torch.tensor([[1, 1, 0], [1, 1, 1]])\n"
        "batch = (old, new, ids, mask, 0.04, torch.tensor([1.0, -0.5]))\n"
        "ours, theirs = names['grpo_compute_loss_slow'](*batch), names['grpo_compute_loss'](*batch)\n"
        "print(max(abs(float(a) - float(b)) for a, b in zip(ours, theirs)) < 1e-6)\n"
    )
    sign = "import os\nos.environ['UNSLOTH_IS_PRESENT'] = '1'\n"
    broken = run(site, sign + load)
    assert "KeyError: 'grpo_compute_loss_slow'" in broken.stderr
    healed = run(site, HEAL + load)
    lines = healed.stdout.splitlines()
    assert "filled the missing registry keys grpo_compute_loss_slow" in "\n".join(lines)
    assert lines[-2:] == ["4", "True"], healed.stderr


def test_the_loss_of_logits_ignores_masked_columns() -> None:
    generator = torch.Generator().manual_seed(5)
    old, new = (torch.randn(2, 3, 5, generator=generator) for _ in range(2))
    ids, mask = torch.tensor([[1, 2, 3], [4, 0, 1]]), torch.tensor([[1, 1, 0], [0, 0, 0]])
    plain = loss_of_logits(old, new, ids, mask, 0.1, torch.ones(2))
    old[0, 2], new[1] = torch.nan, torch.inf
    dirty = loss_of_logits(old, new, ids, mask, 0.1, torch.ones(2))
    assert [float(value) for value in plain] == [float(value) for value in dirty]
