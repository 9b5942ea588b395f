"""Three real GRPO steps of a tiny random model, with the trl of the interpreter.

On the GPU where there is one: trl's own Triton kernels need it.

Needs no hub: a word-level tokenizer and a two-layer Qwen2 of hidden size 32 are made in a folder.
Prints one JSON object with the loss and the KL divergence of every step, and the device.
"""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
STRONG = {"learning_rate": 1e-3, "beta": 0.04}
"""Options under which three steps move the model, and the divergence from where it was is told."""
SIZES = {
    "vocab_size": len(SPECIAL) + len(WORDS),
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
}


def tokenizer_of_words() -> Any:
    """Return a tokenizer that knows the words, and nothing else."""
    tokenizers = importlib.import_module("tokenizers")
    transformers = importlib.import_module("transformers")
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(folder: Path, model_type: str = "qwen2", **options: Any) -> Any:
    """Save a random model into ``folder`` and return a tokenizer of its words."""
    tokenizer = tokenizer_of_words()
    transformers = importlib.import_module("transformers")
    importlib.import_module("torch").manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **options})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return tokenizer


def reward(completions: list[str], **_: object) -> list[float]:
    """Reward the letter e and short texts, so that the advantages of a group differ."""
    return [text.count("e") - 0.1 * len(text) for text in completions]


def train(
    folder: Path,
    *,
    model: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    **config: Any,
) -> list[dict[str, Any]]:
    """Train three steps and return what trl logged at each.

    ``model`` goes to :func:`make_model`, ``trainer`` to ``GRPOTrainer``, ``config`` to
    ``GRPOConfig``.
    """
    datasets, trl = importlib.import_module("datasets"), importlib.import_module("trl")
    torch = importlib.import_module("torch")
    tokenizer = make_model(folder / "model", **(model or {}))
    torch.manual_seed(0)
    made = trl.GRPOTrainer(
        model=str(folder / "model"),
        args=trl.GRPOConfig(**{**three_steps(folder / "out"), **STRONG, **config}),
        reward_funcs=reward,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS * 8}),
        **(trainer or {}),
    )
    made.train()
    return [row for row in made.state.log_history if "loss" in row]


def three_steps(folder: Path) -> dict[str, Any]:
    """Return the options of GRPOConfig for three steps that are logged, and else all as it comes."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 3,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": not importlib.import_module("torch").cuda.is_available(),
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def main(folder: Path) -> None:
    """Train and print what was logged."""
    steps = train(folder)
    device = "cuda" if importlib.import_module("torch").cuda.is_available() else "cpu"
    figures = {name: [row[name] for row in steps] for name in ("loss", "kl")}
    print(json.dumps({**figures, "device": device}))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("WANDB_DISABLED", "true")
    main(Path(sys.argv[1]))
