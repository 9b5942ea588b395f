"""How large a tile may be: everything follows from a byte budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

__all__ = ["DEFAULT_BUDGET_BYTES", "Limits", "Place", "StoredPlan", "TilePlan", "row_ranges"]

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
        gap: how many columns a tile has less than a multiple of 256.

    """

    budget: int
    tile: int
    rows: int
    columns: int
    gap: int = 0

    @staticmethod
    def of(device_type: str) -> Limits:
        """Return the limits for ``"cpu"``, or those of a GPU."""
        return _CPU if device_type == "cpu" else _GPU

    def tile_elements(self, itemsize: int) -> int:
        """Return how many elements a tile has beside stored weights; at least one."""
        return max(1, min(self.tile, self.budget // 8) // itemsize)


# 112 MiB keeps 180 float32 rows of a 152k vocabulary, where matrix products on a CPU still run near
# their best rate, and stays below 128 MiB with the library's own packing buffers. A tile of 4 MiB
# stays in a CPU's last-level cache between the product and the softmax passes. Where its rows are
# apart by a power of two, its columns fall into few sets of the caches above, and the product that
# reads it by columns is slower by 3 to 6 %: so they are apart by a cache line less.
_CPU = Limits(budget=112 << 20, tile=4 << 20, rows=1024, columns=2048, gap=16)

# Not measured: a tile of 4096 by 4096 gives every multiprocessor of an H100 several blocks of a
# product, and is about what its second-level cache holds.
_GPU = Limits(budget=480 << 20, tile=64 << 20, rows=4096, columns=16384)

# Below this many rows per weight pass, recomputing the logits is cheaper than thin products.
_MIN_STORED_ROWS = 64


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
        tile = limits.tile_elements(itemsize)
        fit = (limits.budget - 2 * tile * itemsize) // (shape[0] * operand_size)
        block = min(rows, fit)
        if _ROW_STEP <= block < rows:
            block -= block % _ROW_STEP
        return TilePlan(max(block, 0), _width(tile // max(block, 1), shape, itemsize, limits))

    def tiles(self, vocabulary: int) -> Iterator[slice]:
        """Yield the column ranges that cover the vocabulary; the last may be narrower."""
        return _ranges(vocabulary, self.columns)


class Place(Enum):
    """Where rows keep their softmax weights between scoring and gradients."""

    GRADIENT = "in the memory of the weight gradient"
    BUDGET = "in the budget"
    NOWHERE = "the logits are computed again"


@dataclass(frozen=True)
class StoredPlan:
    """Rows per block for each place, and columns per tile.

    Attributes:
        lent: rows in the memory of the weight gradient, in the first round.
        kept: rows of one block in the budget.
        again: most rows of a block whose logits are computed again, in the only round; 0 if the
            rows that find no place make further rounds.
        columns: columns of one vocabulary tile.

    """

    lent: int
    kept: int
    again: int
    columns: int

    @staticmethod
    def of(
        rows: int,
        shape: tuple[int, int],
        itemsize: int,
        kept_size: int,
        limits: Limits,
        *,
        lent: int,
        adds: bool,
    ) -> StoredPlan:
        """Plan ``rows`` rows, of which the weight gradient can take ``lent``.

        ``shape`` is ``(V, H)``; a kept weight has ``kept_size`` bytes. ``adds`` allows several
        rounds.
        """
        lent = min(rows, lent)
        rest = rows - lent
        kept = TilePlan.stored(rest, shape, itemsize, kept_size, limits).rows
        if kept < min(rest, _MIN_STORED_ROWS):
            kept = 0
        again = 0 if kept == rest or (adds and kept) else min(rest - kept, limits.rows)
        tile = limits.tile_elements(itemsize)
        widest = max(lent, kept, again, 1)
        return StoredPlan(lent, kept, again, _width(tile // widest, shape, itemsize, limits))

    @property
    def most_rows(self) -> int:
        """Rows of the largest block."""
        return max(self.lent, self.kept, self.again)

    def rounds(self, rows: int) -> Iterator[list[tuple[Place, slice]]]:
        """Yield the blocks of each round, which together cover ``rows``."""
        places = [(Place.GRADIENT, slice(0, self.lent))] if self.lent else []
        kept = rows if not self.again else min(rows, self.lent + self.kept)
        for span in _shifted(row_ranges(kept - self.lent, self.kept), self.lent):
            places.append((Place.BUDGET, span))
            if not self.again:
                yield places
                places = []
        if self.again:
            spans = _shifted(row_ranges(rows - kept, self.again), kept)
            places += [(Place.NOWHERE, span) for span in spans]
        if places:
            yield places

    def tiles(self, vocabulary: int) -> Iterator[slice]:
        """Yield the column ranges that cover the vocabulary; the last may be narrower."""
        return _ranges(vocabulary, self.columns)


def _ranges(vocabulary: int, columns: int) -> Iterator[slice]:
    for start in range(0, vocabulary, columns):
        yield slice(start, min(start + columns, vocabulary))


def _shifted(spans: Iterator[slice], by: int) -> Iterator[slice]:
    return (slice(span.start + by, span.stop + by) for span in spans)


def _width(columns: int, shape: tuple[int, int], itemsize: int, limits: Limits) -> int:
    # A slice of the weight (or of its gradient) in the compute dtype is one more tile.
    slice_bytes = min(2 * limits.tile, limits.budget // 4)
    columns = min(columns, max(1, slice_bytes // (max(shape[1], 1) * itemsize)))
    columns = min(columns, limits.columns)
    if columns > _COLUMN_STEP:
        columns -= columns % _COLUMN_STEP + limits.gap
    return max(1, min(columns, shape[0]))


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
