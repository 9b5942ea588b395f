"""What each name of the ecosystem's registry means, release by release, and what stands for it here.

How the facts were gathered (2026-11-23). Every published wheel of unsloth_zoo from 2025.1.1 to
2026.10.9 (186) and of unsloth from 2025.1.1 to 2026.2.1, then the first and the last of each month
to 2026.10.9 (144 in all; the later wheels weigh 30 to 60 MB), were read as text. From the zoo:
every assignment to `RL_REPLACEMENTS`, with the parameters and the return statements of what is
assigned. From unsloth: every subscript, `.get` and membership test of that name, every import from
the zoo's module, and every call of the two losses. No code of either was run or taken over.

What stands out: unsloth 2025.2.10 is the first to read a key; nearly every object it reads it does
not call but copies, as source text (`inspect.getsource`), into a module that it generates. So a
stand-in must be a function whose source is complete in itself. `grpo_compute_loss_slow` is not a
function at all but that text. No pair that unsloth's own metadata admits lacks a key, from
2025.2.13 on: keys go missing where `--no-deps` puts a newer unsloth beside an older zoo.

The data stands in `contracts_losses`, `contracts_tensors` and `contracts_withheld`. Named tuples,
not dataclasses: the self-test loads them at import, and they cost a quarter.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

__all__ = ["Contract", "Era", "Kind", "Provided", "Reading", "Withheld", "era_at", "release"]


class Kind(Enum):
    """What the zoo stores under a key."""

    FUNCTION = "function"
    AUTOGRAD_FUNCTION = "autograd function"
    SOURCE_TEXT = "source text of a function"


class Era(NamedTuple):
    """A stretch of unsloth_zoo releases in which a key had one signature and one meaning.

    Attributes:
        since: first release of unsloth_zoo; the era lasts until the next one of the contract.
        parameters: names in order, as `inspect.signature` gives them; for an autograd function
            those of `apply`.
        returns: what comes back, in words.
        meaning: what changed in substance, empty where only the signature did.

    """

    since: str
    parameters: tuple[str, ...]
    returns: str
    meaning: str = ""


class Reading(NamedTuple):
    """How unsloth reads a key.

    Attributes:
        file: the file of unsloth that reads it.
        since: first release of unsloth that reads it.
        until: last release seen reading it, None where the newest one read (2026.10.9) does.
        required: read by subscript, so that a missing key is a `KeyError` at import.
        copies_source: the object's source goes into the module that unsloth generates.

    """

    file: str
    since: str
    until: str | None = None
    required: bool = True
    copies_source: bool = True


class Provided(NamedTuple):
    """The function that stands under a key here.

    Attributes:
        module: module of this package that holds it.
        name: its name there.
        signature: its parameters in order; `=` after those that have a default.
        tensors: shapes and dtypes of what goes in and comes out.
        differs: where it means something else than the newest era upstream.

    """

    module: str
    name: str
    signature: str
    tensors: str
    differs: str = ""


class Withheld(NamedTuple):
    """Why nothing stands under a key here: its meaning cannot be provided honestly."""

    reason: str


class Contract(NamedTuple):
    """One key of the registry: its history upstream, who reads it, and what stands for it here."""

    key: str
    kind: Kind
    eras: tuple[Era, ...]
    read: Reading
    ours: Provided | Withheld


def release(version: str) -> tuple[int, ...]:
    """Return a calendar version of unsloth or its zoo (`2025.3.11`) in a form that compares.

    Raises ValueError for any other form.
    """
    parts = version.split(".post")[0].split(".")
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"{version!r} is not a release of the form 2025.3.11")
    return tuple(int(part) for part in parts)


def era_at(eras: Iterable[Era], version: str) -> Era | None:
    """Return the era that zoo `version` lies in, None where it is older than the first."""
    begun = [era for era in eras if release(era.since) <= release(version)]
    return max(begun, key=lambda era: release(era.since), default=None)
