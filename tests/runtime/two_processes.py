"""The losses of a generation batch, shared by the processes of a group or held by one; for torchrun.

``two_processes.py OUT`` writes losses and gradients of every case, from accelerate's DDP where there
are several processes, into the file OUT.
"""

from __future__ import annotations

import gc
import sys

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from grpoenv_runtime import LOSS_TYPES, grpo_loss

SEQUENCES, LENGTH, VOCABULARY, WIDTH = 8, 7, 23, 6
MICRO_BATCHES = 2
CASES = {
    **{loss_type: {"loss_type": loss_type} for loss_type in LOSS_TYPES},
    **{
        f"{name}-sequence": {"loss_type": name, "importance_sampling_level": "sequence"}
        for name in ("grpo", "dapo", "luspo")
    },
    "dapo-quantile": {"loss_type": "dapo", "top_entropy_quantile": 0.4},
}


class Policy(nn.Module):
    """Hidden states from an embedding, and a head that the loss reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return ``(B, T, H)``."""
        return torch.tanh(self.body(ids))


def generation_batch() -> dict[str, Tensor]:
    """Return one generation batch; its sequences have from no valid token to all of them."""
    torch.manual_seed(3)
    lengths = torch.tensor([7, 1, 4, 2, 0, 6, 3, 5])
    return {
        "ids": torch.randint(VOCABULARY, (SEQUENCES, LENGTH)),
        "mask": torch.arange(LENGTH)[None] < lengths[:, None],
        "advantages": torch.randn(SEQUENCES),
        "old_logps": -3 + 0.5 * torch.randn(SEQUENCES, LENGTH),
        "ref_logps": -3 + 0.5 * torch.randn(SEQUENCES, LENGTH),
    }


def run(accelerator: Accelerator, case: dict, parts: int) -> dict[str, Tensor]:
    """Train one step in ``parts`` micro-batches for each process; return loss and gradients."""
    torch.manual_seed(0)
    model = accelerator.prepare(Policy())
    batch, world = generation_batch(), accelerator.num_processes
    share = SEQUENCES // world
    own = {
        name: values[accelerator.process_index * share :][:share] for name, values in batch.items()
    }
    total = torch.zeros(())
    for part in range(parts):
        rows = slice(part * share // parts, (part + 1) * share // parts)
        micro = {name: values[rows] for name, values in own.items()}
        with accelerator.accumulate(model):
            loss = grpo_loss(
                model(micro["ids"]),
                accelerator.unwrap_model(model).head.weight,
                **micro,
                beta=0.1,
                max_completion_length=LENGTH,
                num_items_in_batch=accelerator.gather(own["mask"].sum()).sum(),
                num_processes=world,
                current_gradient_accumulation_steps=parts,
                steps_per_generation=parts,
                **case,
            )
            # As in trl: the loss carries the number of micro-batches itself.
            loss.backward()
        total += loss.detach()
    found = {"loss": accelerator.reduce(total, "mean")}
    return found | {name: p.grad for name, p in accelerator.unwrap_model(model).named_parameters()}


def micro_batches(name: str, processes: int) -> int:
    """Return into how many micro-batches each process splits its share, by what a case means."""
    if name == "bnpo":  # the mean over a micro-batch's tokens: one process takes the same ones
        return 2 * MICRO_BATCHES // processes
    if name == "dapo-quantile":  # the quantile over the tokens of all processes' micro-batches
        return 1
    return 1 if processes == 1 else MICRO_BATCHES


def main(out: str) -> None:
    """Write what every case gave."""
    group = Accelerator(cpu=True, gradient_accumulation_steps=MICRO_BATCHES)
    found = {}
    for name, case in CASES.items():
        parts = micro_batches(name, group.num_processes)
        group.gradient_accumulation_steps = parts
        found[name] = run(group, case, parts)
    if group.is_main_process:
        torch.save(found, out)
    # What still holds the group is to go before it, or its threads may outlive it and abort.
    gc.collect()
    group.wait_for_everyone()
    group.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
