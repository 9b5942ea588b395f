"""A picture of a comparison: time over the floor and memory against the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["plot"]

_MEASURES = (("floor", "time over the floor"), ("beyond_mib", "MiB beyond outputs"))


def plot(path: Path, contenders: list[str]) -> None:
    """Draw the results in ``path`` into a PNG beside it.

    A column for each workload, dtype and kind of head; in it a line for each contender and size of
    the hidden rows.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns: dict[str, list[dict[str, Any]]] = {}
    for outcome in json.loads(path.read_text())["outcomes"]:
        case = outcome["case"]
        head = "frozen" if case["frozen"] else "trainable"
        columns.setdefault(f"{case['workload']}, {case['dtype']}, {head}", []).append(outcome)
    size = (3.2 * len(columns) + 1, 8)
    figure, axes = pyplot.subplots(2, len(columns), figsize=size, sharey="row", squeeze=False)
    for column, (title, outcomes) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row, (key, label) in enumerate(_MEASURES):
            axis = axes[row, column]
            for name in contenders:
                _lines(axis, name, key, outcomes, f"C{contenders.index(name)}")
            axis.set_yscale("symlog" if key == "beyond_mib" else "log")
            axis.set_xscale("log")
            axis.set_xlabel("vocabulary")
            axis.grid(alpha=0.3)
            if not column:
                axis.set_ylabel(label)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)


def _lines(axis: Any, name: str, key: str, outcomes: list[dict[str, Any]], colour: str) -> None:
    """Draw one contender: a line for each size ``N x H``, the larger the thinner."""
    points: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for outcome in outcomes:
        for each in outcome["results"]:
            if each["contender"] == name and key in each:
                case = outcome["case"]
                size = (case["rows"], case["width"])
                points.setdefault(size, []).append((case["vocabulary"], each[key]))
    for rank, ((rows, width), found) in enumerate(sorted(points.items())):
        style = {"color": colour, "marker": "o", "ms": 4, "lw": 2.0 / (1 + rank)}
        axis.plot(*zip(*sorted(found), strict=True), label=f"{name}, {rows} x {width}", **style)
