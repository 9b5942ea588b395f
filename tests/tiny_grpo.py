"""Three real GRPO steps of a tiny random model, with heads and trainers of many kinds.

As a script, run by the interpreter under test: ``tiny_grpo.py FOLDER [OPTIONS]`` with the options of
:func:`train` as JSON; prints one JSON object, the figures that trl logged at every step.
"""

import contextlib
import gc
import json
import math
import os
import sys
import tempfile
from pathlib import Path

from grpoenv import _tiny_grpo

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
    trainer = {}
    if lora is not None:
        from peft import LoraConfig

        # Not at 0, where peft starts its second factor: then an adapter that is lost would not show.
        trainer["peft_config"] = LoraConfig(
            r=4, lora_alpha=8, target_modules=lora, init_lora_weights=False, task_type="CAUSAL_LM"
        )
    patch = contextlib.nullcontext()
    if patched:
        import grpoenv_runtime

        patch = grpoenv_runtime.patch_trl()
    model = {"model_type": kind.split("-")[0], **KINDS[kind]}
    with patch:
        rows = _tiny_grpo.train(folder, model=model, trainer=trainer, use_cpu=True, **config)
    return [
        {
            key: math.nan if value is None else value
            for key, value in row.items()
            if not any(part in key for part in NOT_COMPARED)
        }
        for row in rows
    ]


def main(folder: Path, options: dict) -> None:
    """Train and print what was logged, by name of the figure; under torchrun, the first rank."""
    rows = train(folder, **options)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({key: [row.get(key, math.nan) for row in rows] for key in rows[0]}))
    if "RANK" in os.environ:
        import torch.distributed as dist

        # What still holds the group is to go before it, or its threads may outlive it and abort.
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("WANDB_DISABLED", "true")
    given = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        main(Path(scratch), given)
