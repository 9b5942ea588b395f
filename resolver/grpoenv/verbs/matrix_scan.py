"""The verb ``matrix scan``: new releases, and what each gives as of its day and as of today."""

from __future__ import annotations

import argparse
import difflib
import sys

from grpoenv.verbs import Verbs, add_verb, print_json, read_matrix

__all__ = ["add_matrix_scan"]


def add_matrix_scan(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "scan",
        _scan,
        "find new releases of unsloth, its zoo and trl, and what each gives when it is pinned alone",
        "matrix",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write compat-releases.jsonl, and new breaks into the matrix; else print the changes",
    )
    parser.add_argument(
        "--report", action="store_true", help="ask nobody: print the figures of what is recorded"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="look anew at what every release gives today"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="side by side (2)")
    parser.add_argument(
        "--minutes", type=float, default=0.0, metavar="N", help="begin nothing new after that long"
    )


def _scan(options: argparse.Namespace) -> int:
    from grpoenv.asked_target import asked_probe
    from grpoenv.machine import machine_text
    from grpoenv.matrix_render import read_rows, rows_text
    from grpoenv.releases import read_releases, releases_text
    from grpoenv.scan.breaks import new_breaks
    from grpoenv.scan.report import releases_json, report_lines
    from grpoenv.scan.scan import Scanner, find_releases

    matrix, data = read_matrix(options)
    known = read_releases(data.releases)
    if options.report:
        if options.json:
            print_json(options, 0, **releases_json(known, matrix))
        else:
            print("\n".join(report_lines(known, matrix)))
        return 0
    scanner = Scanner(
        asked_probe(python=None, python_version=known.python, platform=known.platform),
        matrix,
        workers=max(1, options.workers),
        seconds=options.minutes * 60 or float("inf"),
        say=lambda message: print(message, file=sys.stderr),
    )
    found = scanner.scan(find_releases(known), refresh=options.refresh)
    changed = sum(one not in known.rows for one in found.rows)
    breaks = new_breaks(found, matrix, machine_text())
    changes = {data.releases: (releases_text(known), releases_text(found))}
    if breaks:
        rows = read_rows(data.matrix)
        rows["break"] = [*rows.get("break", []), *breaks]
        changes[data.matrix] = data.matrix.read_text("utf-8"), rows_text(data.matrix, rows)
    changes = {path: texts for path, texts in changes.items() if texts[0] != texts[1]}
    if options.write:
        for path, (_, after) in changes.items():
            path.write_text(after, encoding="utf-8")
    if options.json:
        names = [row["id"] for row in breaks]
        print_json(
            options, 0, changed=changed, breaks=names, written=bool(options.write and changes)
        )
        return 0
    for path, (before, after) in changes.items() if not options.write else ():
        lines = before.splitlines(True), after.splitlines(True)
        sys.stdout.writelines(difflib.unified_diff(*lines, path.name, path.name, n=0))
    print(f"{changed} of {len(found.rows)} releases changed, {len(breaks)} breaks are new")
    return 0
