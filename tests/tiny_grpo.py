"""Three real GRPO steps of a tiny random model on the CPU.

Needs no hub: a word-level tokenizer and a two-layer model of hidden size 32 are made on the spot.
As a script, run by the interpreter under test: ``tiny_grpo.py FOLDER [OPTIONS]`` with the options of
:func:`train` as JSON; prints one JSON object, the figures that trl logged at every step.
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_DISABLED", "true")

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "and",
    "then",
    "it",
    "was",
    "big",
    "small",
    "red",
    "blue",
    "in",
    "out",
    "over",
    "house",
]
SPECIAL = ["<pad>", "<eos>", "<unk>"]
PROMPTS = ["the cat sat on", "a dog ran under the big red tree"]
NOT_COMPARED = ("runtime", "per_second", "step_time", "total_flos", "num_tokens")

# Model type -> what makes its head or its loss special, beside the sizes common to all.
KINDS = {
    "qwen2": {},
    "qwen2-tied": {"tie_word_embeddings": True},
    "llama": {},
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 16, "tie_word_embeddings": True},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.5},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "output_router_logits": True,
        "router_aux_loss_coef": 0.05,
        "decoder_sparse_step": 1,
    },
}


def make_model(folder: Path, kind: str = "qwen2") -> object:
    """Save a random model of ``kind`` into ``folder`` and return a tokenizer of its words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    options = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "tie_word_embeddings": False,
        **KINDS[kind],
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.split("-")[0], **options)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def reward(completions: list[str], **_: object) -> list[float]:
    """Reward the letter e and short texts, so that the advantages of a group differ."""
    return [text.count("e") - 0.1 * len(text) for text in completions]


def train(
    folder: Path,
    *,
    kind: str = "qwen2",
    patched: bool = False,
    lora: list[str] | None = None,
    **config,
) -> list[dict[str, float]]:
    """Train three steps and return the figures that trl logged at each, times left out.

    ``patched`` runs under ``grpoenv_runtime.patch_trl()``, ``lora`` names the modules that get an
    adapter, ``config`` goes to ``GRPOConfig``.
    """
    import contextlib

    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = make_model(folder / "model", kind)
    options = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "beta": 0.04,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        **config,
    }
    adapter = {}
    if lora is not None:
        from peft import LoraConfig

        # Not at 0, where peft starts its second factor: then an adapter that is lost would not show.
        adapter["peft_config"] = LoraConfig(
            r=4, lora_alpha=8, target_modules=lora, init_lora_weights=False, task_type="CAUSAL_LM"
        )
    patch = contextlib.nullcontext()
    if patched:
        import grpoenv_runtime

        patch = grpoenv_runtime.patch_trl()
    with patch:
        torch.manual_seed(0)
        trainer = GRPOTrainer(
            model=str(folder / "model"),
            args=GRPOConfig(**options),
            reward_funcs=reward,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": PROMPTS * 8}),
            **adapter,
        )
        trainer.train()
    return [
        {
            key: math.nan if value is None else value
            for key, value in row.items()
            if not any(part in key for part in NOT_COMPARED)
        }
        for row in trainer.state.log_history
        if "loss" in row
    ]


def main(folder: Path, options: dict) -> None:
    """Train and print what was logged, by name of the figure; under torchrun, the first rank."""
    rows = train(folder, **options)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({key: [row.get(key, math.nan) for row in rows] for key in rows[0]}))


if __name__ == "__main__":
    given = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        main(Path(scratch), given)
