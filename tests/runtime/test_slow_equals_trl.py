"""The slow loss against the method that trl 1.16's trainer runs, on the same inputs."""

from __future__ import annotations

import itertools
import types
import warnings
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from grpoenv_runtime import LOSS_TYPES

LEVELS = ["token", "sequence"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def trainer_class():
    pytest.importorskip("trl", reason="the comparison runs trl's own method")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import trl
        from trl import GRPOTrainer

    if not trl.__version__.startswith("1.16."):
        pytest.skip(f"the losses follow trl 1.16, and this is {trl.__version__}")
    return GRPOTrainer


class OneProcess:
    """What the method asks of an accelerator when there is a single process."""

    num_processes = 1
    sync_gradients = True

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return values

    def gather(self, values: Tensor) -> Tensor:
        return values

    def pad_across_processes(self, values: Tensor, dim: int, pad_index: float) -> Tensor:
        return values


class StubTrainer:
    """Attributes that the method reads; scores come from full logits of a given head."""

    aux_loss_enabled = False
    use_adaptive_entropy = False
    accelerator = OneProcess()

    def __init__(self, trainer_class: type, inputs: dict, options: dict) -> None:
        self.inputs, self._metrics = inputs, {"train": defaultdict(list), "eval": defaultdict(list)}
        self.loss_type = options["loss_type"]
        self.importance_sampling_level = options["importance_sampling_level"]
        self.beta = options.get("beta", 0.0)
        self.epsilon_low = options.get("epsilon_low", 0.2)
        self.epsilon_high = options.get("epsilon_high", 0.2)
        self.top_entropy_quantile = options.get("top_entropy_quantile", 1.0)
        self.off_policy_mask_threshold = options.get("off_policy_mask_threshold")
        self.entropy_coef = options.get("entropy_coef", 0.0)
        self._entropy_bonus_enabled = self.entropy_coef != 0
        self.max_completion_length = options["max_completion_length"]
        self.current_gradient_accumulation_steps = options.get(
            "current_gradient_accumulation_steps", 1
        )
        self.use_vllm = self.vllm_importance_sampling_correction = "sampling_ratio" in options
        self.model = types.SimpleNamespace(training=options.get("training", True))
        self.args = types.SimpleNamespace(
            delta=options.get("delta"),
            use_bias_correction_kl=options.get("use_bias_correction_kl", True),
            steps_per_generation=options.get("steps_per_generation", 1),
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            vespo_k_pos=2.0,
            vespo_lambda_pos=3.0,
            vespo_k_neg=3.0,
            vespo_lambda_neg=2.0,
        )
        for name in ("get_off_policy_mask", "get_gamma_weights"):
            setattr(self, name, getattr(trainer_class, name))
        self.get_high_entropy_mask = types.MethodType(trainer_class.get_high_entropy_mask, self)

    def _get_per_token_logps_and_entropies(self, *_: object, **__: object):
        hidden, weight = self.inputs["hidden"], self.inputs["weight"]
        logits = hidden @ weight.t() / self.inputs["temperature"]
        logp = torch.log_softmax(logits, -1)
        chosen = logp.gather(-1, self.inputs["ids"][..., None])[..., 0]
        return chosen, -(logp.exp() * logp).sum(-1), None


def run_trl(trainer_class, inputs, options):
    """Loss, gradients and metrics of ``GRPOTrainer._compute_loss`` itself."""
    stub = StubTrainer(trainer_class, inputs, options)
    none = torch.zeros(len(inputs["ids"]), 0, dtype=torch.long)
    batch = {
        "prompt_ids": none,
        "prompt_mask": none,
        "completion_ids": inputs["ids"],
        "completion_mask": inputs["mask"],
        "advantages": inputs["advantages"],
        "num_items_in_batch": torch.tensor(options["num_items_in_batch"]),
        "ref_per_token_logps": inputs["ref_logps"],
    }
    renamed = {
        "old_logps": "old_per_token_logps",
        "tool_mask": "tool_mask",
        "sampling_logps": "sampling_per_token_logps",
        "sampling_ratio": "importance_sampling_ratio",
    }
    given = {**inputs, **options}
    batch.update({new: given[old] for old, new in renamed.items() if given.get(old) is not None})
    loss = trainer_class._compute_loss(stub, stub.model, batch)
    grads = torch.autograd.grad(loss, (inputs["hidden"], inputs["weight"]))
    mode = "train" if stub.model.training else "eval"
    return (loss, *grads), {name: values[0] for name, values in stub._metrics[mode].items()}


@pytest.fixture
def check(trainer_class, slow_loss, relative_error, loss_error):
    """Assert that loss, gradients and metrics of the slow loss are those of trl."""

    def compare(inputs, options):
        (loss, *grads), metrics = run_trl(trainer_class, inputs, options)
        found = slow_loss(**inputs, **options)
        ours = torch.autograd.grad(found.loss, (inputs["hidden"], inputs["weight"]))
        assert loss_error(found.loss, loss, inputs, options) <= TOLERANCE, options
        for name, one, two in zip(("hidden", "weight"), ours, grads, strict=True):
            assert relative_error(one, two) <= TOLERANCE, (name, options)
        values = {
            name: value.item()
            for name, value in found.metrics.items()
            if not name.startswith("sampling/")
        }
        expected = pytest.approx(metrics, rel=TOLERANCE, abs=1e-6, nan_ok=True)
        assert values == expected, options

    return compare


BASE = {"max_completion_length": 9, "num_items_in_batch": 13.0, "epsilon_high": 0.28}


@pytest.mark.parametrize("mask_kind", ["full", "ragged"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_every_variant_is_that_of_trl(make_inputs, check, loss_type, level, mask_kind):
    for beta, delta, per_token, on_policy, correction in itertools.product(
        [0.0, 0.04], [None, 1.5], [False, True], [False, True], [False, True]
    ):
        inputs = make_inputs(mask_kind, per_token_advantages=per_token, on_policy=on_policy)
        options = {
            **BASE,
            "loss_type": loss_type,
            "importance_sampling_level": level,
            "beta": beta,
            "delta": delta,
            "use_bias_correction_kl": correction,
        }
        check(inputs, options)


EXTRAS = {
    "top entropy": {"top_entropy_quantile": 0.4},
    "entropy bonus": {"entropy_coef": 0.01, "current_gradient_accumulation_steps": 2},
    "entropy bonus on the top tokens": {"entropy_coef": 0.01, "top_entropy_quantile": 0.4},
    "off-policy mask": {"off_policy_mask_threshold": 0.05},
    "accumulation": {"current_gradient_accumulation_steps": 4, "steps_per_generation": 2},
    "evaluation": {
        "current_gradient_accumulation_steps": 4,
        "steps_per_generation": 2,
        "training": False,
    },
    "tool mask": {"tool_mask": (torch.arange(6) % 2 == 0).long().expand(4, 6)},
    "token ratios of the sampler": {"sampling_ratio": "token"},
    "sequence ratios of the sampler": {"sampling_ratio": "sequence"},
}


@pytest.mark.parametrize("extra", list(EXTRAS))
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_every_further_option_is_that_of_trl(make_inputs, check, loss_type, extra):
    for level, on_policy, sampled in itertools.product(LEVELS, [False, True], [False, True]):
        inputs = make_inputs(on_policy=on_policy)
        # trl takes the quantile in float32, so compare at that precision.
        if "entropy" in extra:
            for name in ("hidden", "weight"):
                inputs[name] = inputs[name].detach().float().requires_grad_()
        if sampled:
            inputs["sampling_logps"] = inputs["ref_logps"] + 0.1 * torch.randn(4, 6)
            inputs["sampling_logps"][0, 1] = torch.nan
        options = {**BASE, "loss_type": loss_type, "importance_sampling_level": level}
        options |= {"beta": 0.04, **EXTRAS[extra]}
        if "sampling_ratio" in options:
            shape = (4, 6 if options["sampling_ratio"] == "token" else 1)
            ratio = torch.rand(shape, dtype=torch.float64) + 0.5
            ratio[1, 0] = 0.0
            # trl's ratio is exactly 1 where masked, and vespo sums its logarithm there too.
            options["sampling_ratio"] = (
                ratio.masked_fill(inputs["mask"] == 0, 1.0) if shape[1] == 6 else ratio
            )
        check(inputs, options)


def test_scores_are_those_of_the_head_that_trl_runs(trainer_class, relative_error):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    from grpoenv_kernels import linear_logprob

    hidden, weight, bias = torch.randn(9, 8), torch.randn(67, 8), torch.randn(67)
    targets = torch.randint(0, 67, (9,))
    theirs = ChunkedLogProbFunction.apply(
        hidden, weight, bias, targets, 0.7, 16, 3.0, 0.8, ("entropy",)
    )
    ours = linear_logprob(
        hidden,
        weight,
        targets,
        bias=bias,
        temperature=0.7,
        softcap=3.0,
        logit_scale=0.8,
        entropy=True,
    )
    assert relative_error(ours.logps, theirs[0]) < 1e-6
    assert relative_error(ours.entropies, theirs[1]) < 1e-6
