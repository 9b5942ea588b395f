"""Replay collected incidents and see whether grpoenv finds what broke, with class and culprit.

    python benchmarks/incidents.py run INCIDENTS RESULTS [--only ID ...] [--anew]
    python benchmarks/incidents.py summary RESULTS

INCIDENTS has one JSON object a line. ``run`` puts each row's environment together, as of its day,
and asks ``grpoenv check`` about it; what only files can show is built in a folder and asked of
``verify``. It goes on where RESULTS ends; ``--anew`` asks again about what was not found. How a row
is read and judged: ``incident_rows``, ``incident_environments``, ``incident_builds``,
``incident_verdicts``, none of which knows any single incident.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from incident_environments import Index
from incident_replay import replay
from incident_rows import read_incidents
from incident_verdicts import Outcome

from grpoenv.private_cache import user_cache_folder

__all__ = ["main"]

SCHEMA = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands; return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("incidents", type=Path)
    run.add_argument("results", type=Path)
    run.add_argument("--only", nargs="+", default=[], metavar="ID")
    run.add_argument("--anew", action="store_true")
    commands.add_parser("summary").add_argument("results", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "run":
        _run(options)
    print(_summary(_read(options.results).values()))
    return 0


def _run(options: argparse.Namespace) -> None:
    """Replay what is not known yet, and write the results after each row."""
    known = _read(options.results)
    index = Index(user_cache_folder() / "incidents")
    for incident in read_incidents(options.incidents):
        if options.only and incident.id not in options.only:
            continue
        before = known.get(incident.id)
        again = options.only or (options.anew and before and before.result != "found")
        if before is None or again:
            outcome = replay(incident, index)
            known[incident.id] = outcome
            print(
                f"{outcome.id}: {outcome.result}: {outcome.finding or outcome.reason}", flush=True
            )
            _write(options.results, known.values())


def _read(path: Path) -> dict[str, Outcome]:
    if not path.is_file():
        return {}
    data = json.loads(path.read_text("utf-8"))
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no file of schema {SCHEMA}")
    rows = ({("class_" if k == "class" else k): v for k, v in row.items()} for row in data["rows"])
    return {row["id"]: Outcome(**row) for row in rows}


def _write(path: Path, outcomes: Iterable[Outcome]) -> None:
    rows = [outcome.to_json() for outcome in sorted(outcomes, key=lambda o: (o.class_, o.id))]
    path.write_text(json.dumps({"schema": SCHEMA, "rows": rows}, indent=1) + "\n", "utf-8")


def _summary(outcomes: Iterable[Outcome]) -> str:
    listed = list(outcomes)
    lines = [f"{'class':22}{'found':>7}{'missed':>8}{'not decidable':>15}"]
    for class_ in [*sorted({outcome.class_ for outcome in listed}), "all"]:
        counts = Counter(o.result for o in listed if class_ in ("all", o.class_))
        row = "".join(f"{counts[key]:>{width}}" for key, width in _COLUMNS)
        lines.append(f"{class_:22}{row}")
    counts = Counter(outcome.result for outcome in listed)
    decidable = counts["found"] + counts["missed"]
    if decidable:
        share = counts["found"] / decidable
        lines.append(f"{counts['found']} of {decidable} decidable ones found: {share:.0%}")
    warnings = sum(outcome.severity == "warning" for outcome in listed)
    lines.append(f"{warnings} of those found are reported as warnings")
    for result in ("missed", "not decidable"):
        lines += [f"{result}: {o.id}: {o.reason}" for o in listed if o.result == result]
    return "\n".join(lines)


_COLUMNS = (("found", 7), ("missed", 8), ("not decidable", 15))

if __name__ == "__main__":
    sys.exit(main())
