"""Bugs seen in other implementations of these losses, one test each."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from grpoenv_runtime import LOSS_TYPES, grpo_loss

CONTEXT = {"max_completion_length": 9, "num_items_in_batch": 13.0}
EVERY = pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
LEVEL = pytest.mark.parametrize("level", ["token", "sequence"])


def gradients(inputs, scale=1.0, **options):
    loss = grpo_loss(**inputs, **{**CONTEXT, **options})
    leaves = (inputs["hidden"], inputs["weight"])
    return loss, *torch.autograd.grad(scale * loss, leaves)


def hand_made(logps, old=None, advantages=(1.0,), **options):
    """Loss of log-probabilities given one by one: a head of two columns has any of them."""
    logps = torch.as_tensor(logps, dtype=torch.float64)
    gap = logps - torch.log(-torch.expm1(logps))
    inputs = {
        "hidden": gap[..., None].requires_grad_(),
        "weight": torch.tensor([[1.0], [0.0]], dtype=torch.float64),
        "ids": torch.zeros(logps.shape, dtype=torch.long),
        "mask": torch.ones(logps.shape),
        "advantages": torch.as_tensor(advantages, dtype=torch.float64),
        "old_logps": None if old is None else torch.as_tensor(old, dtype=torch.float64),
    }
    return grpo_loss(**inputs, **{**CONTEXT, **options})


@LEVEL
@EVERY
def test_half_a_loss_has_half_a_gradient(make_inputs, loss_type, level):
    inputs = make_inputs(dtype=torch.float32)
    options = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.04}
    whole = gradients(inputs, **options)[1:]
    half = gradients(inputs, 0.5, **options)[1:]
    for one, two in zip(whole, half, strict=True):
        assert bool(one.any())
        torch.testing.assert_close(two, one / 2, rtol=1e-6, atol=0)


@EVERY
def test_the_number_of_blocks_never_changes_the_value(make_inputs, loss_type):
    from grpoenv_runtime import Policy, grpo_compute_loss, loss_config, make_batch

    inputs = make_inputs("full", length=24, vocabulary=211)
    names = ("ids", "mask", "advantages")
    batch = make_batch(
        *(inputs[name] for name in names), torch.float64, old_logps=inputs["old_logps"]
    )
    policy = Policy(inputs["hidden"], inputs["weight"])
    config = loss_config(loss_type=loss_type, **CONTEXT)
    results = []
    for budget in (3_000, 40_000, 200_000, 1 << 24):
        loss = grpo_compute_loss(policy, batch, config, budget_bytes=budget).loss
        results.append((loss, *torch.autograd.grad(loss, (policy.hidden, policy.weight))))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-10, atol=1e-14)


def test_luspo_sums_the_tokens_of_a_sequence_as_since_trl_1_10():
    """The sum over valid tokens of each sequence, averaged over sequences, at token level too."""
    logps = [[-0.5, -1.0], [-0.25, -2.0]]
    loss = hand_made(logps, logps, (2.0, -1.0), loss_type="luspo")
    assert loss.item() == pytest.approx(-(2 * 2.0 - 2 * 1.0) / 2)


def test_a_generation_batch_is_rescaled_to_one_accumulation_window():
    logps = [[-0.5, -1.0]]
    options = {"loss_type": "dapo", "num_items_in_batch": 8.0}
    plain = hand_made(logps, logps, **options).item()
    assert plain == pytest.approx(-2 / 8)
    window = {"current_gradient_accumulation_steps": 2, "steps_per_generation": 4}
    assert hand_made(logps, logps, **options, **window).item() == pytest.approx(2 * plain)
    evaluated = hand_made(logps, logps, **options, **window, training=False)
    assert evaluated.item() == pytest.approx(plain)
    assert hand_made(logps, logps, **options, num_processes=2).item() == pytest.approx(2 * plain)


@pytest.mark.parametrize("loss_type", ["cispo", "sapo", "vespo"])
def test_sequence_level_ratios_are_allowed_for_every_variant(loss_type):
    options = {"loss_type": loss_type, "importance_sampling_level": "sequence", "epsilon_high": 9.0}
    loss = hand_made([[-0.5, -1.0]], [[-0.6, -1.3]], **options)
    assert math.isfinite(loss.item()) and loss.item() != 0


def test_a_far_reference_is_not_clamped():
    from grpoenv_runtime import loss_config, make_batch
    from grpoenv_runtime.evaluation import evaluate

    logps = torch.tensor([[-30.0, -1.0]], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 2, dtype=torch.long)
    batch = make_batch(
        ones, ones, torch.zeros(1), torch.float64, ref_logps=torch.tensor([[-5.0, -1.0]])
    )
    loss = evaluate(logps, None, batch, loss_config(loss_type="bnpo", beta=1.0)).loss
    assert loss.item() == pytest.approx((math.exp(25) - 25 - 1) / 2, rel=1e-9)
    (grad,) = torch.autograd.grad(loss, logps)
    # d/dl [k3(l) e^(l - l_old)] at l = l_old: the estimator's own slope and, through the ratio, k3.
    slope = (1 - math.exp(25)) + (math.exp(25) - 25 - 1)
    assert grad[0, 0].item() == pytest.approx(slope / 2, rel=1e-6) and grad[0, 1].item() == 0


@pytest.mark.parametrize("poison", [-200.0, math.inf, -math.inf, math.nan])
@LEVEL
@EVERY
def test_nothing_in_a_masked_column_changes_anything(make_inputs, loss_type, level, poison):
    torch.manual_seed(5)
    inputs = make_inputs(per_token_advantages=True)
    inputs["sampling_logps"] = inputs["ref_logps"].clone()
    options = {
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "beta": 0.04,
        "vllm_importance_sampling_mode": "token_truncate",
        "off_policy_mask_threshold": 0.01,
    }
    clean = gradients(inputs, **options)
    masked = inputs["mask"] == 0
    for name in ("old_logps", "ref_logps", "sampling_logps", "advantages"):
        inputs[name] = inputs[name].masked_fill(masked, poison)
    inputs["ids"] = inputs["ids"].masked_fill(masked, -100)
    hidden = inputs["hidden"].detach().masked_fill(masked[..., None], poison)
    inputs["hidden"] = hidden.requires_grad_()
    poisoned = gradients(inputs, **options)
    for one, two in zip(poisoned, clean, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("poison", [-200.0, math.nan])
def test_the_slow_loss_selects_as_well(make_inputs, slow_loss, poison):
    inputs = make_inputs()
    clean = slow_loss(**inputs, beta=0.04)
    masked = inputs["mask"] == 0
    for name in ("old_logps", "ref_logps"):
        inputs[name] = inputs[name].masked_fill(masked, poison)
    poisoned = slow_loss(**inputs, beta=0.04)
    assert torch.equal(poisoned.loss, clean.loss)
    (grad,) = torch.autograd.grad(poisoned.loss, inputs["hidden"])
    assert bool(grad.isfinite().all()) and bool(grad.any())
    assert all(bool(value.isfinite()) for value in poisoned.metrics.values())


@LEVEL
@EVERY
def test_an_all_masked_batch_gives_a_differentiable_zero(make_inputs, slow_loss, loss_type, level):
    inputs = make_inputs("none")
    options = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.04}
    slow = slow_loss(**inputs, **{**CONTEXT, **options}).loss
    for loss in (grpo_loss(**inputs, **{**CONTEXT, **options}), slow):
        assert loss.item() == 0
        for grad in torch.autograd.grad(loss, (inputs["hidden"], inputs["weight"])):
            assert not grad.any()


@EVERY
@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_an_empty_batch_gives_a_differentiable_zero(loss_type, shape):
    hidden = torch.zeros(*shape, 3, requires_grad=True)
    weight = torch.zeros(5, 3, requires_grad=True)
    ids = torch.zeros(shape, dtype=torch.long)
    loss = grpo_loss(
        hidden, weight, ids, ids, torch.zeros(shape[0]), loss_type=loss_type, **CONTEXT
    )
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, weight)[0].any()


def test_truncated_completions_do_not_count_in_the_denominator(make_inputs):
    """A sequence that the mask takes out altogether changes no token-normalised loss."""
    inputs = make_inputs()
    options = {"loss_type": "bnpo"}
    loss = gradients(inputs, **options)[0]
    kept = [0, 1, 3]  # sequence 2 has no valid token
    fewer = {
        name: value[kept] if name not in ("weight", "temperature") else value
        for name, value in inputs.items()
    }
    fewer["hidden"] = fewer["hidden"].detach().requires_grad_()
    torch.testing.assert_close(gradients(fewer, **options)[0], loss)


@pytest.mark.parametrize("sequences", [1, 3])
def test_any_number_of_sequences_does(make_inputs, sequences):
    loss, by_hidden, _ = gradients(make_inputs(sequences=sequences), loss_type="grpo")
    assert bool(loss.isfinite()) and by_hidden.shape[0] == sequences


def test_position_t_of_hidden_predicts_position_t_of_ids():
    hidden = torch.eye(3, dtype=torch.float64)[None]
    weight = 50 * torch.eye(3, dtype=torch.float64)
    ids, ones = torch.arange(3)[None], torch.ones(1, 3)
    found = grpo_loss(hidden, weight, ids, ones, ones, return_metrics=True)
    torch.testing.assert_close(found.logps, torch.zeros(1, 3, dtype=torch.float64))


@EVERY
def test_the_ratio_is_one_when_nothing_was_updated(make_inputs, loss_type):
    """Absent old log-probabilities and the current ones as old ones give the same gradient."""
    inputs = make_inputs(on_policy=True)
    found = grpo_loss(**inputs, **CONTEXT, loss_type=loss_type, return_metrics=True)
    absent = gradients(inputs, loss_type=loss_type)
    given = gradients({**inputs, "old_logps": found.logps}, loss_type=loss_type)
    torch.testing.assert_close(given, absent)
    clipped = [value for name, value in found.metrics.items() if name.startswith("clip_ratio")]
    assert all(value.item() == 0 for value in clipped)


def test_log_probabilities_of_a_bfloat16_model_are_float32(make_inputs):
    inputs = make_inputs(dtype=torch.bfloat16)
    found = grpo_loss(**inputs, **CONTEXT, return_metrics=True)
    assert found.logps.dtype == torch.float32 and found.loss.dtype == torch.float32


def test_a_row_with_one_valid_token_is_its_own_mean():
    one = hand_made([[-0.7]], [[-0.9]], importance_sampling_level="sequence", loss_type="grpo")
    assert one.item() == pytest.approx(-min(math.exp(0.2), 1.2))


@EVERY
def test_autocast_changes_nothing(make_inputs, loss_type):
    inputs = make_inputs(dtype=torch.float32)
    plain = gradients(inputs, loss_type=loss_type, beta=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(inputs, loss_type=loss_type, beta=0.04)
    assert all(torch.equal(one, two) for one, two in zip(found, plain, strict=True))


def test_tokens_of_zero_advantage_cost_nothing_unless_a_metric_needs_them(make_inputs):
    from torch.utils.flop_counter import FlopCounterMode

    inputs = make_inputs("full")
    inputs["advantages"] = torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=torch.float64)
    unit = 2 * 5 * 23

    def cost(**options):
        with FlopCounterMode(display=False) as counter:
            found = grpo_loss(**inputs, loss_type="grpo", epsilon_high=9.0, **options)
            loss = found if isinstance(found, torch.Tensor) else found.loss
            torch.autograd.grad(loss, (inputs["hidden"], inputs["weight"]))
        return counter.get_total_flops() / unit

    live = 12
    inputs["old_logps"] = None
    assert cost() == 3 * live
    assert cost(return_metrics=True) == 3 * live + 12


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    loss_type=st.sampled_from(list(LOSS_TYPES)),
    level=st.sampled_from(["token", "sequence"]),
    sequences=st.integers(1, 4),
    length=st.integers(1, 7),
    vocabulary=st.integers(2, 40),
    beta=st.sampled_from([0.0, 0.04, 1.0]),
    delta=st.sampled_from([None, 1.1, 4.0]),
    epsilon=st.floats(0.0, 0.9),
    temperature=st.floats(0.2, 3.0),
    on_policy=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_fast_equals_slow_for_generated_batches(
    slow_call,
    loss_type,
    level,
    sequences,
    length,
    vocabulary,
    beta,
    delta,
    epsilon,
    temperature,
    on_policy,
    seed,
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (sequences, length)
    inputs = {
        "hidden": normal(*shape, 4).requires_grad_(),
        "weight": normal(vocabulary, 4).requires_grad_(),
        "ids": torch.randint(0, vocabulary, shape, generator=generator),
        "mask": torch.rand(shape, generator=generator) < 0.7,
        "advantages": normal(sequences),
        "old_logps": None if on_policy else normal(*shape) - 3,
        "ref_logps": normal(*shape) - 3,
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "beta": beta,
        "delta": delta,
        "epsilon_low": epsilon,
        "epsilon_high": 1 + epsilon,
        "temperature": temperature,
        **CONTEXT,
    }
    leaves = (inputs["hidden"], inputs["weight"])
    fast, slow = grpo_loss(**inputs), slow_call(**inputs).loss
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11)
    ours, plain = (torch.autograd.grad(loss, leaves) for loss in (fast, slow))
    for one, two in zip(ours, plain, strict=True):
        scale = float(two.norm())
        assert float((one - two).norm()) <= 1e-9 * scale + 1e-11


def test_each_token_may_have_its_own_temperature_and_the_head_a_bias(make_inputs, slow_loss):
    inputs = make_inputs()
    inputs["temperature"] = torch.rand(4, 6, dtype=torch.float64) + 0.5
    inputs["bias"] = torch.randn(23, dtype=torch.float64, requires_grad=True)
    leaves = (inputs["hidden"], inputs["weight"], inputs["bias"])
    fast, slow = grpo_loss(**inputs, **CONTEXT), slow_loss(**inputs, **CONTEXT).loss
    torch.testing.assert_close(fast, slow)
    ours, plain = (torch.autograd.grad(loss, leaves) for loss in (fast, slow))
    torch.testing.assert_close(ours, plain)
    warm = grpo_loss(**{**inputs, "temperature": 2 * inputs["temperature"]}, **CONTEXT)
    assert warm.item() != pytest.approx(fast.item())


class LargestTensor(TorchDispatchMode):
    """Remember the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return found


@pytest.mark.parametrize("frozen", [False, True])
@EVERY
def test_no_tensor_of_tokens_times_vocabulary_is_ever_made(make_inputs, loss_type, frozen):
    from grpoenv_runtime import Policy, grpo_compute_loss, loss_config, make_batch

    inputs = make_inputs("full", length=32, vocabulary=512)
    inputs["weight"].requires_grad_(not frozen)
    first = [inputs[name] for name in ("ids", "mask", "advantages")]
    batch = make_batch(*first, torch.float64, old_logps=inputs["old_logps"])
    policy = Policy(inputs["hidden"], inputs["weight"])
    with LargestTensor() as largest:
        config = loss_config(loss_type=loss_type, **CONTEXT)
        grpo_compute_loss(policy, batch, config, budget_bytes=80_000).loss.backward()
    tokens, vocabulary = batch.mask.numel(), 512
    assert 0 < largest.elements <= tokens * vocabulary // 4
