"""How many matrix products a loss takes: in units of one product of a token with the head."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from grpoenv_runtime import LOSS_TYPES, grpo_loss, loss_config, make_batch, two_phase_reason

WIDTH, VOCABULARY, TOKENS = 5, 23, 24
LOCAL = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo")
CONTEXT = {"max_completion_length": 6, "num_items_in_batch": TOKENS}


def units(inputs, frozen: bool, **options) -> float:
    """Matrix products of loss and gradients, seen by the profiler inside of operators as well."""
    inputs["weight"].requires_grad_(not frozen)
    leaves = [inputs["hidden"]] if frozen else [inputs["hidden"], inputs["weight"]]
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as seen:
        found = grpo_loss(**inputs, **{**CONTEXT, **options})
        torch.autograd.grad(found, leaves)
    names = ("aten::mm", "aten::addmm")
    flops = sum(each.flops for each in seen.key_averages() if each.key in names)
    return flops / (2 * WIDTH * VOCABULARY)


@pytest.fixture
def inputs(make_inputs):
    """A batch of 24 tokens with an advantage, none of them clipped, none at its reference.

    Where both log-probabilities are the same to the last bit, a KL term has no derivative.
    """
    made = make_inputs("full")
    made["ref_logps"] -= 0.05
    made["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    return made


WIDE = {"epsilon_low": 0.99, "epsilon_high": 99.0}


@pytest.mark.parametrize("loss_type", LOCAL)
def test_a_token_level_ratio_takes_one_sweep(inputs, loss_type):
    assert units(inputs, frozen=False, loss_type=loss_type, beta=0.04, **WIDE) == 3 * TOKENS
    assert units(inputs, frozen=True, loss_type=loss_type, beta=0.04, **WIDE) == 2 * TOKENS


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_variant_takes_one_sweep_where_old_log_probabilities_are_absent(
    inputs, loss_type, level
):
    inputs["old_logps"] = None
    options = {"loss_type": loss_type, "importance_sampling_level": level, **WIDE}
    assert units(inputs, frozen=False, **options) == 3 * TOKENS
    assert units(inputs, frozen=True, **options) == 2 * TOKENS


TWO_PHASES = {
    "the sequence-level ratio couples the tokens of a sequence": {
        "importance_sampling_level": "sequence",
    },
    "vespo weighs whole sequences": {"loss_type": "vespo"},
    "the top-entropy mask needs every entropy": {"top_entropy_quantile": 0.5},
    "the entropy bonus needs the gradient of entropies": {"entropy_coef": 0.01},
    "the off-policy mask needs each sequence's mean": {"off_policy_mask_threshold": 0.5},
}


@pytest.mark.parametrize("reason", TWO_PHASES)
def test_what_needs_all_log_probabilities_first_takes_two_phases_and_says_so(inputs, reason):
    options = {"loss_type": "grpo", **WIDE, **TWO_PHASES[reason]}
    names = ("ids", "mask", "advantages")
    extra = {}
    if "off_policy_mask_threshold" in options:
        extra["sampling_logps"] = inputs["sampling_logps"] = inputs["old_logps"]
    batch = make_batch(
        *(inputs[name] for name in names), torch.float64, old_logps=inputs["old_logps"], **extra
    )
    assert two_phase_reason(batch, loss_config(**CONTEXT, **options)) == reason
    inputs["ref_logps"] = None
    live = 12 if reason == "the top-entropy mask needs every entropy" else TOKENS
    found = units(inputs, frozen=False, **options)
    assert TOKENS + 3 * live <= found <= 4 * TOKENS


def test_a_clipped_token_is_scored_and_costs_nothing_after_that(inputs):
    """Without a KL term its coefficient is zero; with one it is not."""
    with torch.no_grad():
        logps = grpo_loss(**inputs, **CONTEXT, return_metrics=True).logps
    inputs["old_logps"] = logps.clone()
    rising, falling = inputs["advantages"] > 0, inputs["advantages"] < 0
    inputs["old_logps"][rising, :2] -= 1.0  # the ratio is e, beyond 1.2
    inputs["old_logps"][falling, :1] += 1.0  # the ratio is 1/e, below 0.8
    clipped, options = 6, {"loss_type": "grpo", "epsilon_low": 0.2, "epsilon_high": 0.2}
    live = TOKENS - clipped
    assert units(inputs, frozen=False, **options, beta=0.0) == clipped + 3 * live
    assert units(inputs, frozen=True, **options, beta=0.0) == clipped + 2 * live
    assert units(inputs, frozen=False, **options, beta=0.04) == 3 * TOKENS


def test_a_token_without_an_advantage_costs_nothing_where_there_is_no_kl_term(inputs):
    inputs["advantages"][1] = 0
    live = TOKENS - 6
    for frozen, products in ((False, 3), (True, 2)):
        assert units(inputs, frozen, loss_type="grpo", beta=0.0, **WIDE) == products * live
        assert units(inputs, frozen, loss_type="grpo", beta=0.04, **WIDE) == products * TOKENS


def test_every_token_may_have_its_own_advantage_and_zeros_among_them_cost_nothing(inputs):
    inputs["advantages"] = torch.ones(4, 6, dtype=torch.float64)
    inputs["advantages"][:, ::3] = 0
    assert units(inputs, frozen=False, loss_type="grpo", beta=0.0, **WIDE) == 3 * (TOKENS - 8)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_same_batch_gives_the_same_bits(make_inputs, loss_type):
    inputs = make_inputs(dtype=torch.float32)
    leaves = (inputs["hidden"], inputs["weight"])

    def run():
        loss = grpo_loss(**inputs, **CONTEXT, loss_type=loss_type, beta=0.04)
        return loss, *torch.autograd.grad(loss, leaves)

    assert all(torch.equal(one, two) for one, two in zip(run(), run(), strict=True))
