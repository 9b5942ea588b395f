"""Link what is installed for an interpreter: ``python -m grpoenv.campaign._link PYTHON``.

Prints one JSON object: what is missing for certain (``problems``), what cannot be told
(``undetermined``), and how many needs hold. It is run by the interpreter of grpoenv.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grpoenv._data import data_paths
from grpoenv.checks import Severity, linkage
from grpoenv.machine import probe_machine
from grpoenv.matrix import Matrix
from grpoenv.verify import verify


def main(python: Path) -> dict[str, list[str]]:
    """Return the messages of the check ``linkage`` on the environment of ``python``."""
    probe = probe_machine(python)
    verdict = verify(probe, Matrix(Path("none")), data_paths(), checks=[linkage.CHECK])
    found = [finding for finding in verdict.findings if finding.check == linkage.CHECK.name]
    return {
        "problems": [one.message for one in found if one.severity is Severity.PROBLEM],
        "undetermined": [one.message for one in found if one.severity is Severity.UNDETERMINED],
        "notes": [one.message for one in found if one.severity is Severity.NOTE],
    }


if __name__ == "__main__":
    print("\n" + json.dumps(main(Path(sys.argv[1]))))
