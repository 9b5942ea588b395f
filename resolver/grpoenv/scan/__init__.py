"""Find new releases, and what each of them gives: as of its day, and today.

::

    scan         which releases and days to look at, and in what order
    sets         the set of wheels that uv chooses for one line as of a day
    judgement    the linker's verdict on such sets, many at a time
    kept         what was found before, in the user's cache
    report       the figures: what share is broken, and how a release rots
"""

from __future__ import annotations

__all__: list[str] = []
