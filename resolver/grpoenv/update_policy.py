"""What the update check may do, when, and what it can answer: every limit and every way to stop it.

The check asks the index that the user's own configuration names for the releases of grpoenv, and
says whether there is a newer one. It never installs anything and never recommends a version of
another package: those come from the installed, tested matrix only.

Ways to switch it off, all of them in `OPT_OUTS`, in `config.toml` (`[update]`, `check = false`) in
the user's configuration folder, and in `process_refusal`. A variable counts as set with any value
but `0`, the empty one included: where there is doubt, the check stays silent.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = [
    "LIMITS",
    "OPT_OUTS",
    "Limits",
    "NewerRelease",
    "NotDetermined",
    "OptOut",
    "Step",
    "UpToDate",
    "UpdateResult",
    "next_step",
    "opted_out",
    "process_refusal",
    "retry_after_s",
]


@dataclass(frozen=True)
class UpToDate:
    """No release newer than `installed` is offered for this Python."""

    installed: str


@dataclass(frozen=True)
class NewerRelease:
    """`newest` is a final, not withdrawn release newer than `installed`."""

    installed: str
    newest: str


@dataclass(frozen=True)
class NotDetermined:
    """The question has no answer now; `reason` is our own text, never the server's."""

    reason: str


UpdateResult = UpToDate | NewerRelease | NotDetermined


@dataclass(frozen=True)
class Limits:
    """Bounds of the check; times in seconds, sizes in bytes.

    They follow the peers' incidents: a check that stalled imports for 2 s offline, and one that
    paid for retries on every command.
    """

    connect_s: float = 0.5
    read_s: float = 0.5
    total_s: float = 1.5
    index_question_s: float = 2.0
    cli_wait_s: float = 0.15
    fork_wait_s: float = 1.0
    body_bytes: int = 64 * 1024
    state_bytes: int = 4 * 1024
    config_bytes: int = 64 * 1024
    version_characters: int = 64
    cadence_s: float = 24 * 3600.0
    jitter: float = 0.10
    first_retry_s: float = 3600.0
    result_life_s: float = 7 * 24 * 3600.0


LIMITS: Final = Limits()


@dataclass(frozen=True)
class OptOut:
    """An environment variable that stops the check.

    `offline` ones also refuse an explicit question: they say that nothing may use the network. The
    others only ask for silence.
    """

    name: str
    offline: bool = False


OPT_OUTS: Final = (
    OptOut("GRPOENV_NO_UPDATE_CHECK"),
    OptOut("GRPOENV_OFFLINE", offline=True),
    OptOut("UNSLOTH_DISABLE_AUTO_UPDATES"),
    OptOut("NO_UPDATE_NOTIFIER"),
    OptOut("DO_NOT_TRACK"),
    OptOut("HF_HUB_OFFLINE", offline=True),
    OptOut("TRANSFORMERS_OFFLINE", offline=True),
    OptOut("UV_OFFLINE", offline=True),
    OptOut("PIP_NO_INDEX", offline=True),
    OptOut("HF_HUB_DISABLE_UPDATE_CHECK"),
    OptOut("CI"),
    OptOut("PYTEST_CURRENT_TEST"),
)

_IMPORTING_PROCESS = os.getpid()


class Step(Enum):
    """What a run does, given what the state file says."""

    REST = "rest"
    STAMP = "stamp"
    ASK = "ask"


def opted_out(environ: Mapping[str, str], *, explicit: bool = False) -> str | None:
    """Return the name of the first variable that forbids the check, or None.

    `explicit`: the user asked (`grpoenv update`), so only the offline ones count.
    """
    for opt_out in OPT_OUTS:
        if explicit and not opt_out.offline:
            continue
        if environ.get(opt_out.name, "0") != "0":
            return opt_out.name
    return None


def process_refusal(environ: Mapping[str, str]) -> str | None:
    """Return why this process may not check: it is a worker, a forked child or not rank 0."""
    for name in ("RANK", "LOCAL_RANK"):
        if environ.get(name, "0") != "0":
            return f"{name} is not 0"
    if os.getpid() != _IMPORTING_PROCESS:
        return "a forked child"
    # A child of multiprocessing has this module loaded before any code of ours runs.
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        return "a worker process"
    return None


def retry_after_s(failures: int, prefix: str) -> float:
    """Return the pause after the last attempt: a day and a jitter, or 1 h doubling up to a day.

    The jitter (0 to 10 %) is a fixed function of the environment's `prefix`, so that machines with
    one image do not ask in step.
    """
    if failures:
        return min(LIMITS.cadence_s, LIMITS.first_retry_s * 2.0 ** min(failures - 1, 10))
    share = zlib.crc32(prefix.encode("utf-8", "surrogateescape")) / 2**32
    return LIMITS.cadence_s * (1 + LIMITS.jitter * share)


def next_step(stamp_s: float | None, failures: int, now_s: float, prefix: str) -> Step:
    """Say what to do when the last attempt was at `stamp_s` (seconds since the epoch; None: never).

    The first run only leaves a stamp. A stamp from the future (a clock set back) is replaced by
    one of now, as if the check had just been made.
    """
    if stamp_s is None or stamp_s > now_s:
        return Step.STAMP
    if now_s - stamp_s < retry_after_s(failures, prefix):
        return Step.REST
    return Step.ASK
