"""Train the same random model with trl's GRPOTrainer, plain and under `patch_trl()`, and compare.

Needs no hub. Each mode runs in a process of its own, with the same seed::

    python benchmarks/trainer.py --steps 20 --json benchmarks/results/trainer.json

Prints the largest difference of the losses, the KL divergence at step 1, tokens per second and the
peak memory (of the GPU where there is one, else of the process). ``--modes unsloth`` runs the trainer
that unsloth puts in the place of trl's, with LoRA on the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODES = ("plain", "patched", "unsloth")
MIB = 2**20


def main() -> None:
    """Run the modes and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--completion", type=int, default=64, help="longest completion, in tokens")
    parser.add_argument("--batch", type=int, default=8, help="completions of one micro-batch")
    parser.add_argument("--loss-type", default="dapo")
    parser.add_argument("--beta", type=float, default=0.04)
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES[:2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(train(options)))
        return
    rows = {mode: child(mode) for mode in options.modes}
    options_of = [row.pop("options") for row in rows.values()]
    result = {**compare(rows), "options": options_of[0], **rows}
    print(json.dumps({key: value for key, value in result.items() if key not in MODES}, indent=1))
    for mode, row in rows.items():
        print(f"{mode:8} {row['tokens_per_s']:10.0f} tokens/s {row['peak_mib']:8.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def child(mode: str) -> dict[str, Any]:
    """Run one mode in a process of its own and return what it printed."""
    command = [sys.executable, __file__, *sys.argv[1:], "--mode", mode]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def compare(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the KL divergence at step 1, and how far a patched run is from a plain one."""
    found: dict[str, Any] = {"kl_at_step_1": {mode: row["kl"][0] for mode, row in rows.items()}}
    if not {"plain", "patched"} <= set(rows):
        return found
    plain, patched = rows["plain"], rows["patched"]
    pairs = zip(plain["loss"], patched["loss"], strict=True)
    return {
        **found,
        "largest_loss_difference": max(abs(a - b) for a, b in pairs),
        "speed_ratio": patched["tokens_per_s"] / plain["tokens_per_s"],
        "peak_ratio": patched["peak_mib"] / plain["peak_mib"],
    }


def make_model(folder: Path, options: argparse.Namespace) -> Any:
    """Save a random Qwen2 into ``folder``; return a word-level tokenizer of its vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<pad>", "<eos>", "<unk>"]
    words = [f"w{number}" for number in range(options.vocabulary - len(special))]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = Qwen2Config(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )


def reward(completions: list[str], **_: object) -> list[float]:
    """Reward the digit 7, so that the advantages of a group differ."""
    return [text.count("7") / (1 + len(text)) for text in completions]


def through_unsloth(folder: Path, options: argparse.Namespace) -> Any:
    """Load the model as unsloth's notebooks do, with LoRA on every projection."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(folder),
        max_seq_length=options.completion + 16,
        load_in_4bit=False,
        fast_inference=False,
    )
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, target_modules=projections, random_state=0
    )


def make_trainer(folder: Path, options: argparse.Namespace, gpu: bool) -> Any:
    """Return a trainer of a random model, which is saved in ``folder``."""
    import torch

    tokenizer = make_model(folder / "model", options)
    tokenizer.save_pretrained(folder / "model")
    model: Any = str(folder / "model")
    if options.mode == "unsloth":
        model = through_unsloth(folder / "model", options)
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompts = [f"w{number} w{number + 1} w{number + 2}" for number in range(64)]
    torch.manual_seed(0)
    return GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=options.batch,
            num_generations=options.batch,
            max_completion_length=options.completion,
            max_steps=options.steps,
            loss_type=options.loss_type,
            beta=options.beta,
            learning_rate=1e-4,
            logging_steps=1,
            report_to=[],
            use_cpu=not gpu,
            bf16=options.bf16,
            save_strategy="no",
            disable_tqdm=True,
        ),
        reward_funcs=reward,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process and return the figures of every step."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.mode == "unsloth":
        import unsloth  # noqa: F401 - it must come before trl and transformers
    import torch

    import grpoenv_runtime

    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        patch = grpoenv_runtime.patch_trl() if options.mode == "patched" else nullcontext()
        with patch:
            trainer = make_trainer(Path(scratch), options, gpu)
            start = time.perf_counter()
            with redirect_stdout(sys.stderr):  # trl prints a line at every step
                trainer.train()
            seconds = time.perf_counter() - start
    steps = [row for row in trainer.state.log_history if "kl" in row]
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "loss": [row["loss"] for row in steps],
        "kl": [row["kl"] for row in steps],
        "tokens_per_s": steps[-1]["num_tokens"] / seconds,
        "peak_mib": torch.cuda.max_memory_allocated() / MIB if gpu else kib / 1024,
        "options": {
            **{
                name: value
                for name, value in vars(options).items()
                if name not in ("json", "mode", "modes")
            },
            "machine": platform.platform(),
            "device": torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPUs",
            "torch": torch.__version__,
            "trl": version("trl"),
        },
    }


if __name__ == "__main__":
    main()
