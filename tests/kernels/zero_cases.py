"""Heads that deepspeed's ZeRO-3 partitions; each process of a gloo group runs this."""

from __future__ import annotations

import os
import sys
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from grpoenv_kernels import linear_logprob, linear_objective

# deepspeed reads it where it looks for a device, at its import.
os.environ["DS_ACCELERATOR"] = "cpu"

ROWS, WIDTH, VOCABULARY, STEPS = 9, 8, 33, 3
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "gradient_clipping": 0.0,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


class Model(nn.Module):
    """Hidden states, and a head that is no part of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.body(values)


def scored(hidden, weight, bias, targets):
    return -linear_logprob(hidden, weight, targets, bias=bias).logps.sum()


def swept(hidden, weight, bias, targets):
    terms = lambda logps, rows: -logps
    return linear_objective(hidden, weight, targets, terms, bias=bias).loss


def swept_in_two(hidden, weight, bias, targets):
    """The same head twice in one graph."""
    first = swept(hidden[:4], weight, bias, targets[:4])
    return first + scored(hidden[4:], weight, bias, targets[4:])


def plain(hidden, weight, bias, targets):
    logps = torch.log_softmax(hidden @ weight.t() + bias, 1)
    return -logps.gather(1, targets[:, None]).sum()


def losses(engine, model, call, backward) -> list[float]:
    found = []
    for step in range(STEPS):
        torch.manual_seed(100 * step + dist.get_rank())
        hidden = engine(torch.randn(ROWS, WIDTH))
        targets = torch.randint(0, VOCABULARY, (ROWS,))
        loss = call(hidden, model.head.weight, model.head.bias, targets)
        found.append(loss.item())
        backward(loss)
    return found


def partitioned(call, frozen: bool) -> tuple[list[float], list[torch.Tensor]]:
    """Train under ZeRO-3; return the losses and the parameters in the end."""
    import deepspeed

    torch.manual_seed(3)
    model = Model()
    model.head.requires_grad_(not frozen)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=CONFIG, dist_init_required=False
    )
    away = deepspeed.zero.ZeroParamStatus.NOT_AVAILABLE

    def backward(loss: torch.Tensor) -> None:
        assert model.head.weight.ds_status == away and not model.head.weight.numel()
        engine.backward(loss)
        assert model.head.weight.ds_status == away and not model.head.weight.numel()
        engine.step()

    found = losses(engine, model, call, backward)
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return found, [each.detach().clone() for each in model.parameters()]


def whole(frozen: bool) -> tuple[list[float], list[torch.Tensor]]:
    """Train with averaged gradients of full logits."""
    torch.manual_seed(3)
    model = Model()
    model.head.requires_grad_(not frozen)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)

    def backward(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        for each in trained:
            dist.all_reduce(each.grad)
            each.grad.div_(dist.get_world_size())
        optimizer.step()

    return losses(model, model, plain, backward), [each.detach() for each in model.parameters()]


def language_model(kind: str) -> nn.Module:
    """Return a random model with a head of its own, a tied one, or a LoRA on its head."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=kind == "tied",
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).float()
    if kind != "lora":
        return model
    lora = LoraConfig(r=4, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    return get_peft_model(model, lora)


def check_a_model_under_the_patch(kind: str) -> None:
    """A transformers model whose head is scored within its own forward pass."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    from grpoenv_runtime.scored_forward import HeadRequest, causal_model, score_labels

    model, other = language_model(kind), language_model(kind)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=CONFIG, dist_init_required=False
    )
    torch.manual_seed(5 + dist.get_rank())
    ids = torch.randint(3, 61, (2, 7))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    scores, _ = score_labels(engine, causal_model(model), inputs, HeadRequest(4, 0.9, True, False))
    logits = other(**inputs).logits[:, -5:-1] / 0.9
    logps = torch.log_softmax(logits, -1).gather(-1, ids[:, -4:, None])[..., 0]
    torch.testing.assert_close(scores.logps[:, -5:-1], logps)
    engine.backward(-scores.logps.sum())
    (-logps.sum()).backward()
    theirs = [each for each in other.parameters() if each.requires_grad]
    for mine, expected in zip(trained, theirs, strict=True):
        dist.all_reduce(expected.grad)
        average = expected.grad / dist.get_world_size()
        torch.testing.assert_close(safe_get_full_grad(mine), average, rtol=1e-4, atol=1e-5)


def main(rank: int, world: int, store: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    near = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    for call in (scored, swept, swept_in_two):
        for frozen in (False, True):
            for found, expected in zip(partitioned(call, frozen), whole(frozen), strict=True):
                near(found, expected)
    for kind in ("own head", "tied", "lora"):
        check_a_model_under_the_patch(kind)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
