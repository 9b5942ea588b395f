"""Static linking of Python packages: what one takes from another has to exist there.

Nothing is imported: sources are parsed and followed as Python would follow them. `link` says what
is certainly broken; what cannot be told is counted, never guessed.
"""

from __future__ import annotations

from grpoenv.linker.faults import Fault, Need, Phase
from grpoenv.linker.link import Linkage, link
from grpoenv.linker.platforms import Platform
from grpoenv.linker.script import ProgramTree, link_program

__all__ = [
    "Fault",
    "Linkage",
    "Need",
    "Phase",
    "Platform",
    "ProgramTree",
    "link",
    "link_program",
]
