"""The verb ``probe``: what this machine and interpreter are."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpoenv.verbs import Verbs, add_verb, print_json

__all__ = ["add_probe"]


def add_probe(verbs: Verbs) -> None:
    """Add ``probe``."""
    parser = add_verb(verbs, "probe", _probe, "what this machine and interpreter are")
    parser.add_argument("--python", type=Path, metavar="PATH", help="probe this interpreter")
    parser.add_argument(
        "--freeze", type=Path, metavar="FILE", help="the package list of a hosted image instead"
    )
    parser.add_argument(
        "--host", choices=("colab", "kaggle"), default="colab", help="what --freeze is an image of"
    )


def _probe(options: argparse.Namespace) -> int:
    from grpoenv import report
    from grpoenv.gpu import Answer, Gpu
    from grpoenv.machine import probe_machine
    from grpoenv.probe import probe_from_freeze, probe_to_json
    from grpoenv.target import existing_python

    if options.freeze:
        unknown = Gpu(Answer.UNKNOWN, "a package list does not tell")
        probe = probe_from_freeze(options.freeze, host=options.host, gpu=unknown)
    else:
        probe = probe_machine(existing_python(options.python))
    if options.json:
        print_json(options, 0, **probe_to_json(probe))
    else:
        print(report.probe_text(probe))
    return 0
