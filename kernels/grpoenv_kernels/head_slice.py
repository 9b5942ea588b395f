"""A head of which this process has some columns and the other processes of a group the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from grpoenv_kernels.head import Head
from grpoenv_kernels.softmax_tile import RowScores, RowSums

__all__ = ["HeadSlice", "Share"]


@dataclass(frozen=True)
class Share:
    """Which columns of the vocabulary this process has.

    Attributes:
        first: position of its first column in the whole vocabulary.
        vocabulary: size of the whole vocabulary.
        group: the processes that have one, ``None`` for all.

    """

    first: int
    vocabulary: int
    group: dist.ProcessGroup | None

    def check(self, weight: Tensor) -> None:
        """Raise ``ValueError`` unless ``weight`` ``[C, H]`` lies within the vocabulary."""
        last = self.first + len(weight)
        if not 0 <= self.first <= last <= self.vocabulary:
            raise ValueError(
                f"rows {self.first} to {last} are outside a vocabulary of {self.vocabulary}"
            )

    def combine(self, sums: RowSums) -> RowSums:
        """Merge the sums of all processes, in the order of their ranks: the same bits everywhere.

        One collective operation; ``sums`` stays as it is.
        """
        entropy = sums.moment is not None
        rows = [sums.reference, sums.total, sums.label, *([sums.moment] if entropy else [])]
        mine = torch.stack([row for row in rows if row is not None])
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(everyone, mine, group=self.group)
        parts = [RowSums(one[0], one[1], one[3] if entropy else None, one[2]) for one in everyone]
        for part in parts[1:]:
            parts[0].merge(part)
        return parts[0]

    def add_up(self, values: Tensor) -> Tensor:
        """Sum ``values`` over the processes, in place."""
        dist.all_reduce(values, group=self.group)
        return values


@dataclass(frozen=True)
class HeadSlice(Head):
    """The columns of one process; ``targets`` count from the first of them, so may be outside.

    Plans follow from equal shares, so that every process cuts the same rows into the same blocks,
    whatever its own share: one with more than that takes as much more memory.
    """

    share: Share = Share(0, 0, None)

    def close(self, sums: RowSums) -> RowScores:
        """Return the scores under the whole head; every process must call it with the same rows."""
        return self.share.combine(sums).scores()

    @property
    def plan_shape(self) -> tuple[int, int]:
        """``(V, H)`` of an equal share."""
        columns = -(-self.share.vocabulary // dist.get_world_size(self.share.group))
        return columns, self.shape[1]

    def new_hidden_gradient(self, rows: int) -> Tensor:
        """Return memory for this process's part; the parts are summed before they are rounded."""
        return self.empty(rows, self.shape[1])

    def label_rows(self, targets: Tensor) -> Tensor:
        """Return the weight rows of labels ``[R, H]``, zeros for those of other processes."""
        found = self.empty(len(targets), self.shape[1]).zero_()
        rows = ((targets >= 0) & (targets < len(self.weight))).nonzero()[:, 0]
        found[rows] = super().label_rows(targets[rows])
        return found
