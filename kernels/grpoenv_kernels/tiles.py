"""How large a tile may be: everything follows from a byte budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["DEFAULT_BUDGET_BYTES", "MIN_STORED_ROWS", "Limits", "TilePlan", "row_ranges"]

# Stands for the device's own budget, see :class:`Limits`.
DEFAULT_BUDGET_BYTES = 0

_ROW_STEP = 16
_COLUMN_STEP = 256


@dataclass(frozen=True)
class Limits:
    """What suits a device.

    Attributes:
        budget: bytes of working memory beyond inputs and outputs.
        tile: bytes of one tile of products.
        rows: most rows of a block whose logits are dropped tile by tile.
        columns: most columns of a tile.

    """

    budget: int
    tile: int
    rows: int
    columns: int

    @staticmethod
    def of(device_type: str) -> Limits:
        """Return the limits for ``"cpu"``, or those of a GPU."""
        return _CPU if device_type == "cpu" else _GPU


# 112 MiB keeps 180 float32 rows of a 152k vocabulary, where matrix products on a CPU still run near
# their best rate, and stays below 128 MiB with the library's own packing buffers. A tile of 4 MiB
# stays in a CPU's last-level cache between the product and the softmax passes.
_CPU = Limits(budget=112 << 20, tile=4 << 20, rows=1024, columns=2048)

# Not measured: a tile of 4096 by 4096 gives every multiprocessor of an H100 several blocks of a
# product, and is about what its second-level cache holds.
_GPU = Limits(budget=480 << 20, tile=64 << 20, rows=4096, columns=16384)

# Below this many rows per weight pass, recomputing the logits is cheaper than thin products.
MIN_STORED_ROWS = 64


@dataclass(frozen=True)
class TilePlan:
    """Rows per block and columns per tile.

    Attributes:
        rows: rows of one block.
        columns: columns of one vocabulary tile.

    """

    rows: int
    columns: int

    @staticmethod
    def streaming(rows: int, shape: tuple[int, int], itemsize: int, limits: Limits) -> TilePlan:
        """Plan blocks whose logits are dropped tile by tile; ``shape`` is ``(V, H)``."""
        tile = max(1, min(limits.tile, limits.budget // 4) // itemsize)
        block = max(1, min(rows, limits.rows, tile))
        return TilePlan(block, _width(tile // block, shape, itemsize, limits))

    @staticmethod
    def stored(
        rows: int, shape: tuple[int, int], itemsize: int, operand_size: int, limits: Limits
    ) -> TilePlan:
        """Plan blocks that keep a softmax weight of ``operand_size`` bytes for every column.

        ``shape`` is ``(V, H)``. ``rows`` of the result is 0 if not one row fits.
        """
        tile = max(1, min(limits.tile, limits.budget // 8) // itemsize)
        fit = (limits.budget - 2 * tile * itemsize) // (shape[0] * operand_size)
        block = min(rows, fit)
        if _ROW_STEP <= block < rows:
            block -= block % _ROW_STEP
        return TilePlan(max(block, 0), _width(tile // max(block, 1), shape, itemsize, limits))

    def tiles(self, vocabulary: int) -> Iterator[slice]:
        """Yield the column ranges that cover the vocabulary; the last may be narrower."""
        for start in range(0, vocabulary, self.columns):
            yield slice(start, min(start + self.columns, vocabulary))


def _width(columns: int, shape: tuple[int, int], itemsize: int, limits: Limits) -> int:
    # A slice of the weight (or of its gradient) in the compute dtype is one more tile.
    slice_bytes = min(2 * limits.tile, limits.budget // 4)
    columns = min(columns, max(1, slice_bytes // (max(shape[1], 1) * itemsize)))
    if columns > _COLUMN_STEP:
        columns -= columns % _COLUMN_STEP
    return max(1, min(columns, limits.columns, shape[0]))


def row_ranges(rows: int, most: int) -> Iterator[slice]:
    """Yield ranges that cover ``rows``, of nearly equal length and at most ``most``."""
    first = 0
    for blocks_left in range(-(-rows // max(most, 1)), 0, -1):
        even = -(-(rows - first) // blocks_left)
        stepped = -(-even // _ROW_STEP) * _ROW_STEP
        last = min(rows, first + min(most, stepped))
        if last > first:
            yield slice(first, last)
        first = last
