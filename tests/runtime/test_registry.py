"""The registry: what it holds, what it withholds and why, and its small functions."""

from __future__ import annotations

import builtins
import copy
import dis
import inspect
import logging
import math
import typing
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import grpoenv_runtime
from grpoenv_runtime import registry_tensors
from grpoenv_runtime.contracts import Era, Kind, Provided, Withheld, era_at, release
from grpoenv_runtime.contracts_withheld import UNREAD_KEYS
from grpoenv_runtime.registry import (
    CONTRACTS,
    IncompleteRegistryError,
    Registry,
    UnknownKeyError,
    WithheldKeyError,
    check_registry,
    signature_of,
)

# Every key that a release of unsloth from 2025.2 to 2026.10.9 reads.
READ_BY_UNSLOTH = {
    "UnslothEfficientGRPO",
    "align_completion_tool_mask",
    "align_logprobs_with_mask",
    "calculate_pad_tokens_in_prompt",
    "create_completion_attention_mask",
    "grpo_accumulated_loss",
    "grpo_autotune_batch_and_chunks",
    "grpo_compute_loss",
    "grpo_compute_loss_slow",
    "grpo_selective_log_softmax",
    "grpo_update_SamplingParams",
    "left_pack_padding",
    "sanitize_logprob",
    "selective_log_softmax",
    "sft_prepare_dataset",
}
WITHHELD = {
    "UnslothEfficientGRPO",
    "grpo_accumulated_loss",
    "grpo_autotune_batch_and_chunks",
    "sft_prepare_dataset",
}
RL = grpoenv_runtime.RL_REPLACEMENTS


def test_every_key_that_unsloth_reads_has_a_contract() -> None:
    assert set(CONTRACTS) == READ_BY_UNSLOTH
    assert not READ_BY_UNSLOTH & set(UNREAD_KEYS)
    assert all(contract.key == key for key, contract in CONTRACTS.items())


def test_the_registry_holds_all_but_the_withheld() -> None:
    assert set(RL) == READ_BY_UNSLOTH - WITHHELD
    assert len(RL) == 11
    assert all(callable(function) for function in RL.values())


def test_the_registry_cannot_be_changed() -> None:
    anything: Any = RL
    with pytest.raises(TypeError):
        anything["x"] = print
    with pytest.raises(TypeError):
        del anything["grpo_compute_loss"]
    with pytest.raises(AttributeError):
        anything.x = 1
    with pytest.raises(TypeError):
        typing.cast(Any, CONTRACTS)["x"] = 1
    with pytest.raises(AttributeError):
        typing.cast(Any, CONTRACTS["grpo_compute_loss"]).key = "x"
    assert copy.copy(RL) == RL


@pytest.mark.parametrize("key", sorted(WITHHELD))
def test_a_withheld_key_says_why(key: str) -> None:
    contract = CONTRACTS[key]
    assert isinstance(contract.ours, Withheld)
    with pytest.raises(WithheldKeyError) as caught:
        RL[key]
    since = contract.eras[0].since
    assert str(caught.value) == (
        f"{key!r} (unsloth_zoo {since} on) is not provided: {contract.ours.reason}"
    )
    assert isinstance(caught.value, KeyError)
    assert RL.get(key) is None and key not in RL


@pytest.mark.parametrize("key", sorted(UNREAD_KEYS))
def test_a_key_that_only_the_zoo_uses_says_why(key: str) -> None:
    with pytest.raises(WithheldKeyError, match=r"is not provided: it "):
        RL[key]


def test_an_unknown_key_is_called_unknown() -> None:
    with pytest.raises(UnknownKeyError) as caught:
        RL["grpo_compute_los"]
    assert str(caught.value) == (
        "'grpo_compute_los' is not a key that any release of unsloth or its zoo uses"
    )


def test_the_eras_of_each_contract_are_in_order_and_say_what_they_return() -> None:
    for contract in CONTRACTS.values():
        since = [release(era.since) for era in contract.eras]
        assert since == sorted(set(since))
        assert all(era.returns and era.parameters for era in contract.eras)
        assert release(contract.read.since) >= (2025, 2, 10)
        assert contract.kind is not Kind.SOURCE_TEXT or contract.key == "grpo_compute_loss_slow"


def test_each_difference_from_upstream_is_written_down() -> None:
    for contract in CONTRACTS.values():
        if isinstance(contract.ours, Provided):
            names = contract.ours.signature.strip("()").replace("=", "").split(", ")
            same = tuple(names) == contract.eras[-1].parameters
            assert same or contract.ours.differs, contract.key
            assert contract.ours.tensors


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=4))
def test_releases_compare_as_numbers(parts: list[int]) -> None:
    assert release(".".join(map(str, parts))) == tuple(parts)


def test_a_version_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'2025\.3rc1' is not a release of the form 2025\.3\.11"):
        release("2025.3rc1")
    assert release("2024.9.post4") == (2024, 9)


def test_the_era_at_a_release_is_the_last_begun() -> None:
    eras = (Era("2025.9.7", (), "a"), Era("2025.10.2", (), "b"))
    found = [
        era_at(eras, version) for version in ("2025.9.6", "2025.9.10", "2025.10.2", "2026.1.1")
    ]
    assert found == [None, eras[0], eras[1], eras[1]]


# --- completeness


class Tampered(Registry):
    __slots__ = ("changes",)

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def __getitem__(self, key: str) -> Any:
        if key not in self.changes:
            return super().__getitem__(key)
        if isinstance(self.changes[key], Exception):
            raise self.changes[key]
        return self.changes[key]


def test_the_registry_is_complete() -> None:
    check_registry(Registry())


def test_a_missing_function_ends_the_import_with_key_versions_and_remedy() -> None:
    with pytest.raises(IncompleteRegistryError) as caught:
        check_registry(Tampered(left_pack_padding=AttributeError("gone")))
    assert isinstance(caught.value, ImportError)
    assert str(caught.value) == (
        f"RL_REPLACEMENTS['left_pack_padding'] of grpoenv 0.1.0 (torch {torch.__version__}) should "
        "be left_pack_padding(tensor, pad_id) but is missing (gone): the installation is damaged "
        "or mixed. Run: python -m pip install --force-reinstall --no-deps grpoenv==0.1.0"
    )


def test_another_signature_ends_the_import() -> None:
    with pytest.raises(IncompleteRegistryError, match=r"but is sanitize_logprob\(value=\)"):
        check_registry(Tampered(sanitize_logprob=lambda value=1: value))


def test_signatures_are_written_with_marks_for_defaults_and_kinds() -> None:
    def function(a: int, b: int = 1, *rest: int, c: int, d: int = 2, **more: int) -> None: ...

    assert signature_of(function) == "(a, b=, *rest, *, c, d=, **more)"
    assert signature_of(lambda: None) == "()"


# --- the small functions


@pytest.mark.parametrize("key", registry_tensors.__all__)
def test_the_source_of_a_function_is_complete_in_itself(key: str) -> None:
    # unsloth pastes it into a module that has `from typing import *` and torch.
    names: dict[str, Any] = {name: getattr(typing, name) for name in typing.__all__}
    names["torch"] = torch
    exec(inspect.getsource(getattr(registry_tensors, key)), names)  # noqa: S102
    assert signature_of(names[key]) == signature_of(getattr(registry_tensors, key))
    globals_read = {
        step.argval for step in dis.get_instructions(names[key]) if step.opname == "LOAD_GLOBAL"
    }
    assert [
        name for name in globals_read if name not in names and not hasattr(builtins, name)
    ] == []


@pytest.mark.parametrize("chunks", [1, 3, 4, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_logits(chunks: int, temperature: float) -> None:
    logits = torch.randn(3, 5, 11, dtype=torch.float64)
    index = torch.randint(11, (3, 5))
    found = RL["selective_log_softmax"](logits, index, temperature, chunks)
    expected = (logits / temperature).log_softmax(-1).gather(-1, index[..., None])[..., 0]
    assert found.dtype == torch.float32
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_log_probabilities_of_no_rows() -> None:
    empty = torch.zeros(0, 4, dtype=torch.long)
    assert RL["selective_log_softmax"](torch.zeros(0, 4, 7), empty).shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, lambda z: z),
        ({"logit_scale_multiply": 2.0}, lambda z: 2 * z),
        ({"logit_scale_divide": 4.0}, lambda z: z / 4),
        ({"logit_softcapping": 3.0}, lambda z: 3 * torch.tanh(z / 3)),
        (
            {"logit_scale_multiply": 2.0, "logit_softcapping": 3.0, "temperature": 0.5},
            lambda z: 3 * torch.tanh(2 * z / 3) / 0.5,
        ),
    ],
)
def test_log_probabilities_of_hidden_states(options: dict[str, float], change: Any) -> None:
    hidden = torch.randn(2, 3, 6, requires_grad=True)
    head, bias = torch.randn(13, 6), torch.randn(13)
    index = torch.randint(13, (2, 3))
    found = RL["grpo_selective_log_softmax"](hidden, head, index, lm_head_bias=bias, **options)
    logits = change(hidden @ head.t() + bias)
    expected = logits.log_softmax(-1).gather(-1, index[..., None])[..., 0]
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(2, 3)
    assert_close(
        torch.autograd.grad(found, hidden, upstream),
        torch.autograd.grad(expected, hidden, upstream),
        rtol=1e-4,
        atol=1e-5,
    )


ROWS = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4)


@given(ROWS)
def test_padding_moves_right_and_the_rest_keeps_its_order(rows: list[list[int]]) -> None:
    found = RL["left_pack_padding"](torch.tensor(rows), 0).tolist()
    assert found == [sorted(row, key=lambda token: token == 0) for row in rows]


@given(ROWS, st.integers(0, 5))
def test_padding_of_the_prompt_is_counted(rows: list[list[int]], keep: int) -> None:
    found = RL["calculate_pad_tokens_in_prompt"](torch.tensor(rows), keep, 0).tolist()
    assert found == [row[: 6 - keep].count(0) for row in rows]


def test_a_completion_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="logits_to_keep must be below the length 4, got 4"):
        RL["calculate_pad_tokens_in_prompt"](torch.zeros(2, 4), 4, 0)


@given(ROWS, st.integers(0, 6), st.data())
def test_the_mask_of_a_completion(rows: list[list[int]], widest: int, data: Any) -> None:
    left = [data.draw(st.integers(0, widest)) for _ in rows]
    mask = RL["create_completion_attention_mask"](torch.tensor(rows), torch.tensor(left), widest, 0)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [
        [column >= widest - pad and token != 0 for column, token in enumerate(row)]
        for row, pad in zip(rows, left, strict=True)
    ]


@given(ROWS, st.integers(0, 8), st.sampled_from([torch.bool, torch.long, torch.float32]))
def test_values_start_where_the_mask_starts(
    rows: list[list[int]], length: int, dtype: torch.dtype
) -> None:
    values = torch.arange(len(rows) * length).view(len(rows), length).float() + 1
    found = RL["align_logprobs_with_mask"](values, torch.tensor(rows).to(dtype), -9.0)
    for row, given_values, out in zip(rows, values.tolist(), found.tolist(), strict=True):
        first = next((column for column, token in enumerate(row) if token), 0)
        expected = ([-9.0] * first + given_values + [-9.0] * 6)[:6]
        assert out == expected


def test_a_tool_mask_is_joined_with_the_mask_of_the_completion() -> None:
    join = RL["align_completion_tool_mask"]
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    assert join(None, mask) is mask
    packed = torch.tensor([[1, 0, 1], [0, 1, 1]])
    assert join(packed, mask).tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]
    same = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]])
    assert join(same.bool(), mask).tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]
    with pytest.raises(ValueError, match="tool_mask has 1 rows, completion_mask 2"):
        join(packed[:1], mask)


def test_sampling_options_keep_what_the_engine_takes_and_the_user_s_lists() -> None:
    class Params:
        def __init__(self, temperature: float = 1.0, stop: Any = None, bad: Any = None) -> None:
            self.temperature, self.stop, self.bad = temperature, stop, bad

    update = RL["grpo_update_SamplingParams"]
    options = {"temperature": 0.5, "stop": ["x"], "unheard_of": 1}
    assert update(Params, options) == {"temperature": 0.5, "stop": ["x"]}
    assert update(Params, options, Params(0.9, stop=["a", "b"], bad=[])) == {
        "temperature": 0.5,
        "stop": ["a", "b"],
    }
    assert options == {"temperature": 0.5, "stop": ["x"], "unheard_of": 1}


def test_a_nan_log_probability_is_dropped_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    sanitize = RL["sanitize_logprob"]
    assert sanitize(SimpleNamespace(logprob=-0.5)) == -0.5
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        assert sanitize(SimpleNamespace(logprob=math.nan)) is None
    assert caplog.messages == ["a sampled token has a NaN log-probability; ignored"]


def test_the_losses_of_the_registry_are_the_package_s() -> None:
    assert RL["grpo_compute_loss"] is grpoenv_runtime.grpo_compute_loss
    assert RL["grpo_compute_loss_slow"] is grpoenv_runtime.grpo_compute_loss_slow


def test_every_public_name_exists() -> None:
    assert set(grpoenv_runtime.__all__) <= set(dir(grpoenv_runtime))
    for name in grpoenv_runtime.__all__:
        assert getattr(grpoenv_runtime, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'grpo_los'"):
        _ = typing.cast(Any, grpoenv_runtime).grpo_los
