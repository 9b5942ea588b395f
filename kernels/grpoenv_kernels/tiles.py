"""How large a tile may be: everything follows from a byte budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["DEFAULT_BUDGET_BYTES", "MIN_STORED_ROWS", "TilePlan", "row_ranges"]

# Working memory beyond inputs and outputs. 112 MiB keeps 180 float32 rows of a 152k vocabulary,
# where matrix products on a CPU still run near their best rate, and stays below 128 MiB with the
# library's own packing buffers.
DEFAULT_BUDGET_BYTES = 112 << 20

# Tiles of this size stay in a CPU's last-level cache between the product and the softmax passes.
_TILE_BYTES = 4 << 20
_MOST_ROWS = 1024
_ROW_STEP = 16
_COLUMN_STEP = 256
_MOST_COLUMNS = 2048

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
    def streaming(rows: int, shape: tuple[int, int], itemsize: int, budget: int) -> TilePlan:
        """Plan blocks whose logits are dropped tile by tile; ``shape`` is ``(V, H)``."""
        tile = max(1, min(_TILE_BYTES, budget // 4) // itemsize)
        block = max(1, min(rows, _MOST_ROWS, tile))
        return TilePlan(block, _width(tile // block, shape, itemsize, budget))

    @staticmethod
    def stored(rows: int, shape: tuple[int, int], itemsize: int, budget: int) -> TilePlan:
        """Plan blocks that keep a softmax weight for every column.

        ``shape`` is ``(V, H)``. ``rows`` of the result is 0 if not one row fits.
        """
        tile = max(1, min(_TILE_BYTES, budget // 8) // itemsize)
        fit = (budget - 2 * tile * itemsize) // (shape[0] * itemsize)
        block = min(rows, fit)
        if _ROW_STEP <= block < rows:
            block -= block % _ROW_STEP
        return TilePlan(max(block, 0), _width(tile // max(block, 1), shape, itemsize, budget))

    def tiles(self, vocabulary: int) -> Iterator[slice]:
        """Yield the column ranges that cover the vocabulary; the last may be narrower."""
        for start in range(0, vocabulary, self.columns):
            yield slice(start, min(start + self.columns, vocabulary))


def _width(columns: int, shape: tuple[int, int], itemsize: int, budget: int) -> int:
    # A slice of the weight (or of its gradient) in the compute dtype is one more tile.
    columns = min(
        columns, max(1, min(2 * _TILE_BYTES, budget // 4) // (max(shape[1], 1) * itemsize))
    )
    if columns > _COLUMN_STEP:
        columns -= columns % _COLUMN_STEP
    return max(1, min(columns, _MOST_COLUMNS, shape[0]))


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
