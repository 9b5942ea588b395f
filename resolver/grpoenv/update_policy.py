"""What the update check may do, and when: every limit and every way to stop it.

The check asks the index that the user's own configuration names for the releases of grpoenv, and
says whether there is a newer one. It never installs anything and never recommends a version of
another package: those come from the installed, tested matrix only.

Ways to switch it off, all of them in `OPT_OUTS`, in `config.toml` (`[update]`, `check = false`) in
the user's configuration folder, and in `process_refusal`. A variable counts as set with any value
but `0`, the empty one included: where there is doubt, the check stays silent.

This module is on the import path of the runtime: plain names, no dataclass, nothing heavy.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Mapping
from typing import Final, Literal

__all__ = [
    "LIMITS",
    "OPT_OUTS",
    "Step",
    "next_step",
    "opted_out",
    "process_refusal",
    "retry_after_s",
]


class LIMITS:
    """Bounds of the check; times in seconds, sizes in bytes.

    They follow the peers' incidents: a check that stalled imports for 2 s offline, and one that
    paid for retries on every command.
    """

    connect_s: Final = 0.5
    read_s: Final = 0.5
    total_s: Final = 1.5
    index_question_s: Final = 2.0
    cli_wait_s: Final = 0.15
    fork_wait_s: Final = 1.0
    body_bytes: Final = 64 * 1024
    state_bytes: Final = 4 * 1024
    config_bytes: Final = 64 * 1024
    version_characters: Final = 64
    cadence_s: Final = 24 * 3600.0
    jitter: Final = 0.10
    first_retry_s: Final = 3600.0
    result_life_s: Final = 7 * 24 * 3600.0


# Environment variables that stop the check, and whether they also refuse a question that the user
# asks (`grpoenv update`): those say that nothing may use the network, the others ask for silence.
OPT_OUTS: Final = {
    "GRPOENV_NO_UPDATE_CHECK": False,
    "GRPOENV_OFFLINE": True,
    "UNSLOTH_DISABLE_AUTO_UPDATES": False,
    "NO_UPDATE_NOTIFIER": False,
    "DO_NOT_TRACK": False,
    "HF_HUB_OFFLINE": True,
    "TRANSFORMERS_OFFLINE": True,
    "UV_OFFLINE": True,
    "PIP_NO_INDEX": True,
    "HF_HUB_DISABLE_UPDATE_CHECK": False,
    "CI": False,
    "PYTEST_CURRENT_TEST": False,
}

# What a run does, given what the state file says.
Step = Literal["rest", "stamp", "ask"]

_IMPORTING_PROCESS = os.getpid()


def opted_out(environ: Mapping[str, str], *, explicit: bool = False) -> str | None:
    """Return the name of the first variable that forbids the check, or None.

    `explicit`: the user asked (`grpoenv update`), so only the offline ones count.
    """
    for name, offline in OPT_OUTS.items():
        if (offline or not explicit) and environ.get(name, "0") != "0":
            return name
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
        return "stamp"
    if now_s - stamp_s < retry_after_s(failures, prefix):
        return "rest"
    return "ask"
