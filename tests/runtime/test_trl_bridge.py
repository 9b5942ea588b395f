"""`patch_trl()` under the trainer of the installed trl: real runs, and what it refuses."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import nn

import grpoenv_runtime
from grpoenv_runtime import UnsupportedTrlError, patch_trl, scored_forward, trl_bridge

sys.path.insert(0, str(Path(__file__).parent.parent))
import tiny_grpo

pytest.importorskip("trl", reason="patch_trl is tested inside of trl's trainer")
pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = 1e-4
# Adam divides by the gradient's own size, so what is rounding in step 1 grows in the others.
LATER = 1e-3


@pytest.fixture(autouse=True)
def trl_as_it_was(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    if trl_bridge._current is not None:
        trl_bridge._current.undo()


@pytest.fixture
def grpo_trainer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.trainer import grpo_trainer
    return grpo_trainer


def assert_same_run(tmp_path: Path, **options: object) -> list[dict[str, float]]:
    """Train with and without the patch and compare every figure that trl logged."""
    plain = tiny_grpo.train(tmp_path / "plain", **options)
    patched = tiny_grpo.train(tmp_path / "patched", patched=True, **options)
    assert len(plain) == len(patched) == 3
    for expected, found in zip(plain, patched, strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True)
    assert plain[0]["grad_norm"] > 0
    return patched


def test_a_run_under_the_patch_logs_what_a_plain_run_logs(tmp_path):
    rows = assert_same_run(tmp_path)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 0


@pytest.mark.parametrize("kind", [kind for kind in tiny_grpo.KINDS if kind != "qwen2"])
def test_heads_of_every_kind_give_the_same_run(tmp_path, kind):
    rows = assert_same_run(tmp_path, kind=kind)
    if kind == "qwen2_moe":
        assert rows[0]["aux_loss"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "cispo", "temperature": 0.7},
        {"loss_type": "vespo", "num_iterations": 2},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "num_iterations": 2},
        {"top_entropy_quantile": 0.5, "entropy_coef": 0.01},
        {"gradient_accumulation_steps": 2, "max_steps": 3},
        {"mask_truncated_completions": True},
    ],
    ids=str,
)
def test_options_of_the_trainer_keep_their_meaning(tmp_path, options):
    assert_same_run(tmp_path, **options)


def test_lora_beside_a_frozen_head_gives_the_same_run(tmp_path):
    assert_same_run(tmp_path, lora=["q_proj", "v_proj"])


def test_an_adapter_on_the_head_is_refused_by_trl_and_trained_under_the_patch(tmp_path):
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        tiny_grpo.train(tmp_path / "plain", lora=["lm_head"])
    rows = tiny_grpo.train(tmp_path / "patched", patched=True, lora=["lm_head"])
    assert rows[0]["grad_norm"] > 0
    assert rows[0]["kl"] > 0, "an adapter that does not start at zero differs from the reference"


class Trainer:
    """What a trainer's scoring method reads of it."""

    temperature = 0.8
    _entropy_bonus_enabled = False

    def __init__(self) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=True)


def batch(vocabulary: int = 50) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return ids and attention mask ``(3, 9)`` of left-padded prompts and right-padded answers."""
    torch.manual_seed(1)
    ids, mask = torch.randint(2, vocabulary, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, :2] = 0
    mask[1, 7:] = 0
    return ids, mask, 5


def small_model(**options: object) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
        **options,
    )
    return LlamaForCausalLM(config)


def expected_scores(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities and entropies ``(3, 5)`` from the model's own logits."""
    ids, mask, keep = batch()
    logits = model(input_ids=ids, attention_mask=mask).logits.float() / Trainer.temperature
    log_p = logits[:, -keep - 1 : -1].log_softmax(-1)
    chosen = log_p.gather(-1, ids[:, -keep:, None])[..., 0]
    valid = mask[:, -keep:] != 0
    return chosen.where(valid, 0.0), (-(log_p.exp() * log_p).sum(-1)).where(valid, 0.0)


def patched_scores(grpo_trainer, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask, keep = batch()
    method = grpo_trainer.GRPOTrainer._get_per_token_logps_and_entropies
    logps, entropies, _ = method(Trainer(), model, ids, mask, keep, compute_entropy=True)
    return logps, entropies


def assert_same_scores(grpo_trainer, model: nn.Module) -> None:
    """Compare values, and the gradients of everything that trains, with the full logits."""
    upstream = torch.linspace(-1, 1, 15).view(3, 5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = expected_scores(model)
    wanted = torch.autograd.grad(expected[0], parameters, upstream, allow_unused=True)
    with patch_trl():
        found = patched_scores(grpo_trainer, model)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found[0], parameters, upstream, allow_unused=True), wanted
    )


@pytest.mark.parametrize("modules", [["q_proj", "lm_head"], ["lm_head"]], ids=str)
def test_lora_on_the_head_scores_and_trains_as_peft_computes_it(grpo_trainer, modules):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=3, target_modules=modules, init_lora_weights=False)
    model = get_peft_model(small_model(), config)
    assert_same_scores(grpo_trainer, model)
    with model.disable_adapter(), torch.no_grad(), patch_trl():
        torch.testing.assert_close(
            patched_scores(grpo_trainer, model)[0], expected_scores(model)[0]
        )


def test_two_active_adapters_on_the_head_add_up(grpo_trainer):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=3, target_modules=["lm_head"], init_lora_weights=False)
    model = get_peft_model(small_model(), config)
    model.add_adapter("second", config)
    model.base_model.set_adapter(["default", "second"])
    assert_same_scores(grpo_trainer, model)


def test_a_head_in_modules_to_save_is_the_one_that_trains(grpo_trainer):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(small_model(), config)
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.add_(0.1)
    assert_same_scores(grpo_trainer, model)


def test_prompt_learning_puts_tokens_before_the_sequence(grpo_trainer):
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(
        small_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    assert_same_scores(grpo_trainer, model)


def test_autocast_casts_the_head_as_it_casts_a_linear_layer(grpo_trainer):
    model = small_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = expected_scores(model)
        with patch_trl():
            found = patched_scores(grpo_trainer, model)
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=5e-2)


def test_dora_on_the_head_is_refused(grpo_trainer):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["lm_head"], use_dora=True)
    model = get_peft_model(small_model(), config)
    with patch_trl(), pytest.raises(TypeError, match="'default' on the output embedding is not"):
        patched_scores(grpo_trainer, model)


def test_a_head_that_is_no_linear_layer_is_refused(grpo_trainer):
    model = small_model()
    model.lm_head = nn.Sequential(model.lm_head)
    with patch_trl(), pytest.raises(TypeError, match="is a Sequential; a linear layer"):
        patched_scores(grpo_trainer, model)


def test_a_model_whose_logits_are_not_what_its_config_says_is_refused(grpo_trainer):
    class Doubled(type(small_model())):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits * 2
            return outputs

    model = Doubled(small_model().config)
    with patch_trl(), pytest.raises(ValueError, match="Doubled changes its logits in a way"):
        patched_scores(grpo_trainer, model)
    assert "forward" not in model.__dict__, "the model is left as it was"
    assert "forward" not in model.lm_head.__dict__


def test_the_patch_is_undone_and_may_be_asked_for_twice(grpo_trainer):
    names = ["_get_per_token_logps_and_entropies", "__init__"]
    before = [grpo_trainer.GRPOTrainer.__dict__[name] for name in names]
    first = patch_trl()
    assert patch_trl() is first
    assert [grpo_trainer.GRPOTrainer.__dict__[name] for name in names] != before
    first.undo()
    assert [grpo_trainer.GRPOTrainer.__dict__[name] for name in names] == before
    first.undo()
    with patch_trl() as second:
        assert second is not first
        assert second.active
    assert not second.active


def test_an_undo_does_not_throw_away_what_others_patched_later(grpo_trainer, monkeypatch):
    patch = patch_trl()
    with monkeypatch.context() as later:
        later.setattr(grpo_trainer.GRPOTrainer, "__init__", lambda self: None)
        with pytest.raises(RuntimeError, match="__init__ was replaced again after patch_trl"):
            patch.undo()
    patch.undo()


@pytest.mark.parametrize("version", ["0.14.0", "1.17.0", "2.0.0"])
def test_a_trl_outside_of_the_tested_range_is_refused(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(UnsupportedTrlError, match=f"trl {version} is outside of the range"):
        patch_trl()


def test_a_trainer_that_another_package_replaced_is_refused(grpo_trainer, monkeypatch):
    class UnslothGRPOTrainer(grpo_trainer.GRPOTrainer):
        pass

    monkeypatch.setattr(grpo_trainer, "GRPOTrainer", UnslothGRPOTrainer)
    with pytest.raises(UnsupportedTrlError, match=r"was replaced by .*UnslothGRPOTrainer"):
        patch_trl()


def test_a_scoring_method_of_another_shape_is_refused(grpo_trainer, monkeypatch):
    monkeypatch.setattr(
        grpo_trainer.GRPOTrainer, "_get_per_token_logps_and_entropies", lambda self, model: None
    )
    with pytest.raises(UnsupportedTrlError, match=r"no parameters \['input_ids', "):
        patch_trl()


def test_every_release_in_the_range_has_one_seam():
    for release in ["0.15.0", "0.19.1", "0.20.0", "1.13.0", "1.14.2", "1.15.0", "1.16.3"]:
        assert trl_bridge._seam_of(Version(release)).method.startswith("_")


def test_a_prompt_alone_is_not_scored():
    ids, mask, keep = batch()
    labels = scored_forward._next_tokens(ids, mask, keep)
    assert labels.shape == ids.shape
    assert (labels != -100).sum(1).tolist() == [5, 3, 5]
    assert grpoenv_runtime.patch_trl is patch_trl
