from __future__ import annotations

import pytest
import torch

import grpoenv_runtime
from grpoenv_runtime import LOSS_TYPES, grpo_loss, loss_config, make_batch, two_phase_reason


def test_every_exported_name_exists_once_and_in_order():
    names = grpoenv_runtime.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(grpoenv_runtime, name) for name in names)


def test_the_variants_are_those_of_trl():
    expected = {"grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"}
    assert set(LOSS_TYPES) == expected


@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_options_of_other_variants_have_no_effect(loss_type):
    everything = loss_config(
        loss_type=loss_type,
        epsilon_low=0.1,
        epsilon_high=0.3,
        delta=2.0,
        sapo_temperature_pos=2.0,
        vespo_k_pos=1.0,
    )
    own = set(type(everything.surrogate).__annotations__)
    given = {"epsilon_low": 0.1, "epsilon_high": 0.3, "delta": 2.0}
    given |= {"sapo_temperature_pos": 2.0, "vespo_k_pos": 1.0}
    for name in own & given.keys():
        assert getattr(everything.surrogate, name) == given[name]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss_typ": "grpo"}, TypeError, r"unknown options \['loss_typ'\]"),
        ({"loss_type": "ppo"}, ValueError, "loss_type must be one of .*, got 'ppo'"),
        ({"importance_sampling_level": "word"}, ValueError, "must be one of .*, got 'word'"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive, got 0.0"),
        ({"top_entropy_quantile": 1.5}, ValueError, r"must be in \[0, 1\], 1.5"),
        (
            {"loss_type": "sapo", "sapo_temperature_neg": 0.0},
            ValueError,
            "sapo_temperature_neg must be positive, got 0.0",
        ),
        (
            {"vllm_importance_sampling_mode": "word_mask"},
            ValueError,
            "vllm_importance_sampling_mode must be one of .*, got 'word_mask'",
        ),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        loss_config(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.1, "ref_logps": None}, "beta is 0.1, which needs ref_logps"),
        ({"loss_type": "dr_grpo"}, "loss_type 'dr_grpo' needs max_completion_length"),
        ({"vllm_importance_sampling_mode": "token_mask"}, "needs sampling_logps or sampling_ratio"),
        ({"mask": torch.ones(4, 5)}, r"mask must be \(4, 6\), got \(4, 5\)"),
        ({"advantages": torch.ones(3)[:, None]}, r"advantages must be \(4, 6\), got \(3, 1\)"),
        ({"ids": torch.ones(4)}, r"ids must be \(B, T\), got \(4,\)"),
        ({"ids": -torch.ones(4, 6).long()}, "ids must not be negative where the mask is set"),
        ({"sampling_ratio": torch.ones(4, 2)}, r"sampling_ratio must be \(B, T\) or \(B, 1\)"),
        ({"hidden": torch.ones(4, 5, 5)}, r"hidden must be \(B, T, H\) with"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(make_inputs, change, message):
    with pytest.raises(ValueError, match=message):
        grpo_loss(**{**make_inputs(), **change})


REASONS = [
    ({"loss_type": "dapo", "beta": 0.04}, True, None),
    ({"loss_type": "dapo", "importance_sampling_level": "sequence"}, False, None),
    ({"loss_type": "vespo"}, False, None),
    ({"loss_type": "dapo", "vllm_importance_sampling_mode": "sequence_mask"}, True, None),
    ({"loss_type": "vespo"}, True, "vespo weighs whole sequences"),
    ({"importance_sampling_level": "sequence"}, True, "the sequence-level ratio couples"),
    (
        {"importance_sampling_level": "sequence", "beta": 0.04},
        False,
        "the sequence-level ratio couples",
    ),
    ({"top_entropy_quantile": 0.5}, False, "the top-entropy mask"),
    ({"entropy_coef": 0.1}, False, "the entropy bonus"),
    ({"off_policy_mask_threshold": 0.1}, True, "the off-policy mask"),
    ({"vllm_importance_sampling_mode": "token_mask"}, False, "the sampler correction needs"),
]


@pytest.mark.parametrize(("options", "off_policy", "reason"), REASONS)
def test_two_phases_are_taken_for_a_stated_reason_only(options, off_policy, reason):
    ones = torch.ones(2, 3, dtype=torch.long)
    old = -torch.ones(2, 3) if off_policy else None
    batch = make_batch(ones, ones, torch.ones(2), torch.float32, old_logps=old)
    found = two_phase_reason(batch, loss_config(**options))
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_sampler_ratios_are_bounded_as_the_four_modes_say():
    from grpoenv_runtime.sampler import SamplerCorrection

    old = torch.tensor([[0.0, 1.0, -1.0, 9.0]])
    sampled = torch.tensor([[0.0, 0.0, 0.0, torch.nan]])
    mask = torch.tensor([[True, True, True, True]])
    e = torch.e

    def ratio(mode, low, high, keep=mask):
        return SamplerCorrection(mode, low, high).ratio(old, sampled, keep)

    torch.testing.assert_close(ratio("token_truncate", 0.5, 2.0), torch.tensor([[1, 2, 0.5, 1]]))
    torch.testing.assert_close(ratio("token_mask", 0.5, 2.0), torch.tensor([[1.0, 0, 0, 1]]))
    torch.testing.assert_close(ratio("token_mask", None, 2.0), torch.tensor([[1, 0, 1 / e, 1]]))
    torch.testing.assert_close(ratio("sequence_truncate", None, 2.0), torch.tensor([[1.0]]))
    first_two = torch.tensor([[True, True, False, False]])
    found = ratio("sequence_truncate", None, 2.0, first_two)
    torch.testing.assert_close(found, torch.tensor([[2.0]]))
    found = ratio("sequence_mask", None, 2.0, first_two)
    torch.testing.assert_close(found, torch.tensor([[0.0]]))


def test_sampler_statistics_ignore_what_the_sampler_could_not_score(make_inputs):
    inputs = make_inputs("full")
    gap = torch.zeros(4, 6, dtype=torch.float64)
    gap[0, 0], gap[0, 1] = 0.5, torch.nan
    found = grpo_loss(
        **inputs,
        sampling_logps=inputs["old_logps"] - gap,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=1.25,
        return_metrics=True,
    ).metrics
    values = {name: value.item() for name, value in found.items() if name.startswith("sampling/")}
    ratio = "sampling/importance_sampling_ratio/"
    assert values == pytest.approx(
        {
            "sampling/sampling_logp_difference/mean": 0.5 / 23,
            "sampling/sampling_logp_difference/max": 0.5,
            ratio + "min": 1.0,
            ratio + "mean": (23 + 1.25) / 24,
            ratio + "max": 1.25,
        }
    )
