"""The fast loss against the slow one over the product of variants, levels, options and masks."""

from __future__ import annotations

import itertools

import pytest
import torch

from grpoenv_runtime import LOSS_TYPES, grpo_loss
from grpoenv_runtime.sampler import CORRECTION_MODES

LEVELS = ["token", "sequence"]
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-11}
CONTEXT = {"max_completion_length": 9, "num_items_in_batch": 13.0}


@pytest.fixture
def compare(slow_loss, relative_error, loss_error):
    """Assert that loss and gradients of the fast and of the slow path are the same."""

    def check(inputs, options):
        results, options = [], {**CONTEXT, **options}
        for call in (grpo_loss, slow_loss):
            found = call(**inputs, **options)
            loss = found if isinstance(found, torch.Tensor) else found.loss
            results.append((loss, *torch.autograd.grad(loss, (inputs["hidden"], inputs["weight"]))))
        fast, slow = results
        tolerance = DTYPES[inputs["hidden"].dtype]
        assert all(bool(values.isfinite().all()) for values in slow), options
        assert loss_error(fast[0], slow[0], inputs, options) <= tolerance, options
        for name, one, two in zip(("hidden", "weight"), fast[1:], slow[1:], strict=True):
            assert relative_error(one, two) <= tolerance, (name, options)

    return check


@pytest.mark.parametrize("mask_kind", ["full", "ragged", "none", "tool"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_the_product_of_all_variants(make_inputs, compare, loss_type, level, mask_kind):
    kinds = itertools.product([0.0, 0.04], [None, 1.5], [False, True], [False, True], DTYPES)
    for beta, delta, per_token, on_policy, dtype in kinds:
        inputs = make_inputs(
            "ragged" if mask_kind == "tool" else mask_kind,
            dtype=dtype,
            per_token_advantages=per_token,
            on_policy=on_policy,
        )
        if mask_kind == "tool":
            inputs["tool_mask"] = (torch.arange(6) % 2 == 0).long().expand(4, 6)
        for correction in [True, False] if beta else [True]:
            options = {
                "loss_type": loss_type,
                "importance_sampling_level": level,
                "beta": beta,
                "delta": delta,
                "use_bias_correction_kl": correction,
                "epsilon_high": 1.2 if loss_type == "cispo" else 0.28,
            }
            compare(inputs, options)


EXTRAS = {
    "top entropy": {"top_entropy_quantile": 0.4},
    "entropy bonus": {"entropy_coef": 0.01},
    "off-policy mask": {"off_policy_mask_threshold": 0.05},
    "softcap": {"softcap": 2.0},
    "logit scale": {"logit_scale": 0.5},
    "accumulation": {
        "current_gradient_accumulation_steps": 4,
        "steps_per_generation": 2,
        "num_processes": 2,
    },
    "evaluation": {"current_gradient_accumulation_steps": 4, "training": False},
}
for mode, low in itertools.product(CORRECTION_MODES, [None, 0.8]):
    EXTRAS[f"{mode} from {low}"] = {
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": low,
        "vllm_importance_sampling_clip_max": 1.5,
    }


@pytest.mark.parametrize("extra", list(EXTRAS))
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_every_further_option(make_inputs, compare, loss_type, extra):
    for level, on_policy, dtype in itertools.product(LEVELS, [False, True], DTYPES):
        inputs = make_inputs(dtype=dtype, on_policy=on_policy)
        steps = torch.tensor([-0.5, -0.1, 0.0, 0.2, 0.6], dtype=torch.float64)
        sampled = inputs["ref_logps"] - steps[torch.randint(0, 5, (4, 6))]
        sampled[0, 1] = torch.nan
        options = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.04}
        inputs["sampling_logps"] = sampled
        compare(inputs, {**options, **EXTRAS[extra]})


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("on_policy", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_metrics_are_the_same_from_both_paths(
    make_inputs, slow_loss, loss_type, level, on_policy, per_token
):
    inputs = make_inputs(on_policy=on_policy, per_token_advantages=per_token)
    options = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.04}
    fast = grpo_loss(**inputs, **CONTEXT, **options, return_metrics=True)
    slow = slow_loss(**inputs, **CONTEXT, **options)
    assert fast.metrics.keys() == slow.metrics.keys() and {"kl", "entropy"} <= fast.metrics.keys()
    for name, value in slow.metrics.items():
        torch.testing.assert_close(fast.metrics[name], value, equal_nan=True)
    torch.testing.assert_close(fast.logps, slow.logps)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_bfloat16_is_no_worse_than_plain_bfloat16_torch(
    make_inputs, relative_error, loss_type, level
):
    from grpoenv_runtime import evaluate, loss_config, make_batch

    inputs = make_inputs("full", dtype=torch.bfloat16, length=24, width=16, vocabulary=97)
    options = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.04, **CONTEXT}
    leaves = (inputs["hidden"], inputs["weight"])

    def plain(hidden, weight):
        logits = hidden @ weight.t() / inputs["temperature"]
        logps = torch.log_softmax(logits, -1).gather(-1, inputs["ids"][..., None])[..., 0]
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        tensors = {name: inputs[name] for name in ("old_logps", "ref_logps")}
        first = [inputs[name] for name in ("ids", "mask", "advantages")]
        batch = make_batch(*first, dtype, **tensors)
        loss = evaluate(logps.to(dtype), None, batch, loss_config(**options)).loss
        return loss, *torch.autograd.grad(loss, (hidden, weight))

    exact = plain(*(leaf.detach().double().requires_grad_() for leaf in leaves))
    theirs = plain(*leaves)
    loss = grpo_loss(**inputs, **options)
    ours = (loss, *torch.autograd.grad(loss, leaves))
    errors = {
        name: (relative_error(mine, best), relative_error(other, best))
        for name, mine, other, best in zip(
            ("loss", "hidden", "weight"), ours, theirs, exact, strict=True
        )
    }
    print(errors)
    # Chance can put a single number, the loss, nearer to the exact one than float32 rounding.
    assert all(mine <= max(other, 1e-5) for mine, other in errors.values()), errors


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "sapo"])
def test_gradients_pass_gradcheck(make_inputs, loss_type, level):
    """Where no stop-gradient makes the gradient differ from the derivative of the value."""
    inputs = make_inputs(length=3, width=2, vocabulary=5, sequences=2)
    options = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.04, **CONTEXT}

    def loss(hidden, weight):
        return grpo_loss(**{**inputs, "hidden": hidden, "weight": weight}, **options)

    assert torch.autograd.gradcheck(loss, (inputs["hidden"], inputs["weight"]))


@pytest.mark.parametrize("loss_type", ["cispo", "vespo"])
def test_gradients_of_constant_weights_pass_gradcheck_on_policy(make_inputs, loss_type):
    """Without old log-probabilities these weights are constant in value as well."""
    inputs = make_inputs(length=3, width=2, vocabulary=5, sequences=2, on_policy=True)

    def loss(hidden, weight):
        return grpo_loss(
            **{**inputs, "hidden": hidden, "weight": weight}, loss_type=loss_type, **CONTEXT
        )

    assert torch.autograd.gradcheck(loss, (inputs["hidden"], inputs["weight"]))
