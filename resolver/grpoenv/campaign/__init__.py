"""Campaigns: run many stacks for real, each in a throw-away environment, and keep what came of it.

A *cell* is one stack on one target. ``cell_run`` raises its level step by step, within ``limits``;
an *engine* runs many cells at once, on this machine or on a Ray cluster; a ``journal`` keeps each
result as it comes, so that an interrupted campaign goes on where it was; and ``evidence`` writes the
results into the matrix, or holds them against what it has.
"""

__all__: tuple[str, ...] = ()
