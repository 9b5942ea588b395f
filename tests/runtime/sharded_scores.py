"""Scores of a fully sharded model under `patch_trl()`, against its own logits; for torchrun."""

from __future__ import annotations

import gc
import types

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.grpo_trainer import GRPOTrainer

import grpoenv_runtime

KEEP = 5


def make_model(shard: bool, tied: bool) -> LlamaForCausalLM:
    """Return a random model, its layers and itself sharded as FSDP2 users do it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    if shard:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def scores(model: LlamaForCausalLM, ids: torch.Tensor, patched: bool) -> torch.Tensor:
    """Return log-probabilities ``(B, KEEP)`` through trl's method, or from full logits."""
    mask = torch.ones_like(ids)
    if not patched:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -KEEP - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[:, -KEEP:, None])[..., 0]
    from accelerate import Accelerator

    trainer = types.SimpleNamespace(accelerator=Accelerator(cpu=True), temperature=1.0)
    with grpoenv_runtime.patch_trl():
        method = GRPOTrainer._get_per_token_logps_and_entropies
        return method(trainer, model, ids, mask, KEEP)[0]


def main() -> None:
    """Compare values and gradients, the whole batch's mean over the processes."""
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    batch = torch.randint(50, (2 * dist.get_world_size(), 9))
    own = batch[2 * dist.get_rank() :][:2]
    for tied in (False, True):
        sharded, whole = make_model(shard=True, tied=tied), make_model(shard=False, tied=tied)
        found, expected = scores(sharded, own, patched=True), scores(whole, batch, patched=False)
        torch.testing.assert_close(found, expected[2 * dist.get_rank() :][:2])
        found.mean().backward()
        expected.mean().backward()
        for (name, part), p in zip(sharded.named_parameters(), whole.parameters(), strict=True):
            gathered = part.grad.full_tensor()
            torch.testing.assert_close(gathered, p.grad, msg=lambda text, name=name: name + text)
        del sharded, whole, found, expected, part, gathered
    # What still holds the group is to go before it, or its threads may outlive it and abort.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
