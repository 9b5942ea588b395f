"""Import unsloth and make three GRPO steps with it: ``_unsloth_grpo.py [OPTIONS]``, as JSON.

It is run by its path, by the interpreter under test, on a machine without a GPU. unsloth refuses to
be imported there, and ``UNSLOTH_ALLOW_CPU`` would skip the rewriting of trl's trainers that matters.
So for the import torch reports an A100, and no longer for the steps: they run uncompiled on the CPU,
with a tiny Qwen2 of transformers' own under LoRA, through the trainer that unsloth wrote. OPTIONS go
to ``GRPOConfig``. Prints one JSON object: how the import ended and how the steps did, with the loss
and the KL divergence of each.
"""

import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

PACKAGES = ("unsloth", "unsloth_zoo")
HERE = Path(__file__).resolve().parent


def main(options: dict[str, Any]) -> None:
    """Print the outcome of the import and of the steps."""
    # As a notebook has it: unsloth 2025.3.3 imports what it wrote there.
    sys.path.append(os.getcwd())
    with neighbour(HERE, "_made_up_gpu").made_up_gpu():
        outcome = tried(import_unsloth)
    if outcome["outcome"] == "runs":
        with mock.patch("torch.cuda.synchronize"):  # called wherever the device is said to be CUDA
            outcome = {"outcome": "imports", "grpo": tried(lambda: train(options))}
    print("\n" + json.dumps(outcome))


def neighbour(folder: Path, name: str) -> Any:
    """Import a module of ``folder``, whose others are not to hide any of the environment's."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def tried(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a step; return what came of it, or what Python raised and where."""
    try:
        return {"outcome": "runs", **step()}
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever ends it is the outcome
        traceback.print_exc()
        return {
            "outcome": "fails",
            "exception": type(error).__name__,
            "message": str(error).strip().partition("\n")[0],
            "at": place(error),
        }


def place(error: BaseException) -> str:
    """Return the innermost line of the packages that are followed, else the innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if any(p in Path(f.filename).parts for p in PACKAGES)]
    written = [f for f in frames if "unsloth_compiled_cache" in f.filename]
    frame = (written or own or frames)[-1]
    parts = Path(frame.filename).parts[-2 if written else -3 :]
    return f"{'/'.join(parts)}:{frame.lineno}"


def import_unsloth() -> dict[str, Any]:
    """Import unsloth, and have it rewrite trl's trainers if importing did not."""
    unsloth = importlib.import_module("unsloth")
    trl = importlib.import_module("trl")
    if not trl.GRPOTrainer.__name__.startswith("Unsloth"):
        unsloth.PatchFastRL("GRPO", unsloth.FastLanguageModel)
    return {}


def tiny_model(sizes: dict[str, Any]) -> Any:
    """Return a random Qwen2 under LoRA that gives hidden states for logits where unsloth asks."""
    torch = importlib.import_module("torch")
    transformers, peft = importlib.import_module("transformers"), importlib.import_module("peft")
    config = transformers.Qwen2Config(**sizes, torch_dtype=torch.float32)

    class Qwen2(transformers.Qwen2ForCausalLM):  # type: ignore[misc,name-defined]
        def forward(self, *args: Any, num_logits_to_keep: int = 0, **keywords: Any) -> Any:
            # unsloth's generate of early 2025 gives this to any model, and its own models take it.
            keep = num_logits_to_keep or keywords.get("logits_to_keep", 0)
            asked = os.environ.get("UNSLOTH_RETURN_HIDDEN_STATES", "0") == "1"
            hidden = asked and not keywords.get("use_cache")  # as unsloth's: not while it generates
            keywords["output_hidden_states"] = hidden or keywords.get("output_hidden_states")
            found = super().forward(*args, **keywords)
            if hidden:
                found.logits = found.hidden_states[-1][:, -keep if keep else None :]
            return found

    model = peft.get_peft_model(
        Qwen2(config),
        peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    model.enable_input_require_grads()  # as unsloth's get_peft_model does
    model.gradient_checkpointing_enable({"use_reentrant": False})  # as that does, too
    model.gradient_checkpointing_disable()  # until FastLanguageModel.for_training sets the flag
    model.for_training = model.for_inference = lambda *_, **__: model
    return model


def train(options: dict[str, Any]) -> dict[str, Any]:
    """Make three steps with the trainer that unsloth wrote, if it wrote one."""
    trl = importlib.import_module("trl")
    if not trl.GRPOTrainer.__name__.startswith("Unsloth"):
        return {"outcome": "not generated"}
    datasets, tiny = importlib.import_module("datasets"), neighbour(HERE.parent, "_tiny_grpo")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.GRPOTrainer(
            model=tiny_model(tiny.SIZES),
            reward_funcs=[tiny.reward],
            processing_class=tiny.tokenizer_of_words(),
            train_dataset=datasets.Dataset.from_dict({"prompt": tiny.PROMPTS * 8}),
            args=trl.GRPOConfig(
                **{
                    **tiny.three_steps(Path(folder)),
                    "fp16": False,
                    "optim": "adamw_torch",  # the default of unsloth, eight bits, needs a GPU
                    **options,
                }
            ),
        )
        trainer.train()
    steps = [row for row in trainer.state.log_history if "loss" in row]
    figures = {name: [row.get(name) for row in steps] for name in ("loss", "kl")}
    return {**figures, "bf16": trainer.args.bf16}  # unsloth sets it for a model of float32, too


if __name__ == "__main__":
    main(json.loads(sys.argv[1]) if sys.argv[1:] else {})
