"""`python -m grpoenv_runtime`: run the whole self-test and print a table.

Exit code 0 where all is sound, 1 where a check failed.
"""

from __future__ import annotations

import sys

from grpoenv_runtime import self_test

__all__ = ["main"]


def main() -> int:
    """Print the report of the deep self-test and return the exit code."""
    report = self_test(deep=True)
    print(report.table())
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
