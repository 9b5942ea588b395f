from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from grpoenv_kernels.tiles import Limits, TilePlan, row_ranges

MIB = 1 << 20


@given(rows=st.integers(0, 5000), most=st.integers(1, 1100))
def test_row_ranges_cover_every_row_once(rows, most):
    covered = [row for span in row_ranges(rows, most) for row in range(span.start, span.stop)]
    assert covered == list(range(rows))
    assert all(span.stop - span.start <= most for span in row_ranges(rows, most))


@given(
    rows=st.integers(1, 100_000),
    vocabulary=st.integers(1, 300_000),
    width=st.integers(1, 8192),
    budget=st.integers(16 * MIB, 512 * MIB),
)
def test_stored_blocks_stay_within_the_budget(rows, vocabulary, width, budget):
    limits = replace(Limits.of("cpu"), budget=budget)
    plan = TilePlan.stored(rows, (vocabulary, width), 4, 4, limits)
    assert 4 * plan.rows * (vocabulary + plan.columns) <= budget
    covered = [column for tile in plan.tiles(min(vocabulary, 5000)) for column in (tile.start,)]
    assert covered[0] == 0 and plan.columns <= vocabulary


def test_a_head_of_152k_columns_keeps_blocks_that_run_at_full_rate():
    plan = TilePlan.stored(2048, (151_936, 1024), 4, 4, Limits.of("cpu"))
    assert plan.rows >= 160
