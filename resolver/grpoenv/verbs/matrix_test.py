"""The verb ``matrix test``: run stacks for real, and record what came of them or compare it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpoenv.verbs import Verbs, add_verb, matrix_data, print_json

if TYPE_CHECKING:
    from grpoenv.campaign.cell import CellResult
    from grpoenv.campaign.command import Tested, Wanted
    from grpoenv.campaign.engines import Engine

__all__ = ["add_matrix_test"]


def add_matrix_test(verbs: Verbs) -> None:
    """Add ``test`` to the verbs of ``matrix``."""
    parser = add_verb(
        verbs, "test", _test, "run stacks in throw-away environments, as far as they go", "matrix"
    )
    parser.add_argument("stacks", nargs="*", metavar="STACK", help="ids of stacks; none: all")
    parser.add_argument(
        "--record", action="store_true", help="write the evidence into the matrix; else compare"
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="3.12", help="targets of this Python"
    )
    parser.add_argument(
        "--level",
        choices=("linked", "imported", "trained", "gpu"),
        default="gpu",
        help="go up to this level (as far as the machine can)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="cells at a time (1)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--address", metavar="HOST:PORT", help="the Ray cluster")
    parser.add_argument(
        "--campaign",
        type=Path,
        metavar="DIR",
        help="journal and logs; given again, it goes on where it was cut off",
    )
    parser.add_argument("--time-limit", type=float, default=900, metavar="SECONDS")
    parser.add_argument("--memory-limit", type=int, default=8192, metavar="MIB")
    parser.add_argument("--disk-limit", type=int, default=4096, metavar="MIB")


def _test(options: argparse.Namespace) -> int:
    import tempfile

    if options.campaign:
        return _run(options, options.campaign.absolute())
    with tempfile.TemporaryDirectory(prefix="grpoenv-campaign-") as folder:
        return _run(options, Path(folder))


def _run(options: argparse.Namespace, folder: Path) -> int:
    from grpoenv.campaign.command import run_stacks

    def report(result: CellResult) -> None:
        if not options.json:
            print(_line(result), flush=True)

    tested = run_stacks(
        matrix_data(options), _wanted(options), folder, _engine(options, folder), report
    )
    code = _code(tested)
    if options.json:
        results = [result.to_json() for result in tested.results]
        print_json(options, code, results=results, differences=list(tested.differences))
        return code
    for line in tested.differences:
        print(line, file=sys.stderr)
    print(_summary(tested, options.record))
    return code


def _wanted(options: argparse.Namespace) -> Wanted:
    from grpoenv.campaign.command import Wanted
    from grpoenv.campaign.limits import Limits
    from grpoenv.matrix import Level

    return Wanted(
        stacks=tuple(options.stacks),
        pythons=tuple(options.python),
        upto=Level[options.level.upper()],
        limits=Limits(options.time_limit, options.memory_limit, options.disk_limit),
        record=options.record,
    )


def _engine(options: argparse.Namespace, folder: Path) -> Engine:
    if options.engine == "ray":
        from grpoenv.campaign.ray_engine import RayCluster

        return RayCluster(folder, options.address)
    from grpoenv.campaign.engines import LocalPool

    return LocalPool(folder, max(1, options.workers))


def _line(result: CellResult) -> str:
    words: list[Any] = [f"{result.stack}, Python {result.python}: {result.level}"]
    words += [f"; {one.level} fails in {one.step}: {one.error}" for one in result.failures]
    words += [f"; stopped, because {result.blocked}"] if result.blocked else []
    seconds = round(sum(result.seconds.values()))
    return "".join([*words, f" ({seconds} s, {result.memory_mib} MiB)"])


def _summary(tested: Tested, recorded: bool) -> str:
    levels = [str(result.level) for result in tested.results]
    counts = ", ".join(f"{levels.count(name)} {name}" for name in dict.fromkeys(sorted(levels)))
    if recorded:
        return f"{len(levels)} cells: {counts}; recorded"
    found = len(tested.differences)
    return f"{len(levels)} cells: {counts}; {found or 'no'} differences from the matrix"


def _code(tested: Tested) -> int:
    if tested.differences:
        return 1
    return 3 if any(result.blocked for result in tested.results) else 0
