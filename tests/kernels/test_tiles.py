from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from grpoenv_kernels.tiles import Limits, StoredPlan, TilePlan, row_ranges

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


@given(rows=st.integers(2, 1024), width=st.sampled_from([512, 1024, 4096]))
def test_the_rows_of_a_wide_tile_on_a_cpu_are_not_a_power_of_two_apart(rows, width):
    limits, shape = Limits.of("cpu"), (151_936, width)
    stored = StoredPlan.of(rows, shape, 4, 4, limits, lent=min(rows, width), adds=True)
    for plan in (TilePlan.streaming(rows, shape, 4, limits), stored):
        assert plan.columns < 256 or plan.columns % 32 == 16
