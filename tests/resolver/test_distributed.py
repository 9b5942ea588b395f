"""The environments of several ranks, compared by real processes over real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from depot import make_wheel
from grpoenv.checks import Severity
from grpoenv.distributed import Rank, compare, exchange, read_rank
from grpoenv.errors import InputError, UndeterminedError
from grpoenv.uv import run_uv

BASE = {"host": "a", "python": "CPython 3.11.7", "package torch": "2.13.0", "files torch": "x"}


def free_port() -> int:
    """Return a port that is free, and whose neighbour above is."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
        return port


def test_equal_ranks_have_no_findings() -> None:
    assert compare({0: BASE, 1: {**BASE, "host": "b"}}) == []


def test_the_odd_rank_is_named_with_its_host() -> None:
    odd = {**BASE, "host": "b", "package torch": "2.12.0", "files torch": "y"}
    (finding,) = compare({0: BASE, 1: BASE, 2: odd})
    assert finding.severity is Severity.PROBLEM
    assert finding.culprit == "rank 2 on b"
    assert finding.message == "torch is 2.12.0, and 2.13.0 on ranks 0, 1"


@pytest.mark.parametrize(
    ("change", "severity", "message"),
    [
        ({"files torch": "y"}, "problem", "torch has other files than on ranks 0, 1, at the same"),
        ({"python": "CPython 3.12.1"}, "problem", "python is CPython 3.12.1, and CPython 3.11.7"),
        ({"driver": "550"}, "warning", "driver is 550, and unknown on ranks 0, 1"),
        ({"package six": "1"}, "warning", "six is 1, and not installed on ranks 0, 1"),
    ],
)
def test_what_differs_matters_more_or_less(
    change: dict[str, str], severity: str, message: str
) -> None:
    (finding,) = compare({0: BASE, 1: BASE, 2: {**BASE, **change}})
    assert finding.severity.value == severity
    assert finding.message.startswith(message)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "--distributed needs RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, and the"),
        (
            {"RANK": "x", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK, WORLD_SIZE and MASTER_PORT have to be numbers",
        ),
    ],
)
def test_without_torchrun_there_are_no_ranks(variables: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_rank(variables)


def test_a_rank_that_is_silent_is_undetermined_and_a_stranger_is_ignored() -> None:
    import threading

    port = free_port()
    answers = []
    rank = Rank(0, 2, "127.0.0.1", port, b"secret")
    gather = threading.Thread(target=lambda: answers.append(exchange(rank, BASE, timeout_s=1.5)))
    gather.start()
    stranger = Rank(1, 2, "127.0.0.1", port, b"another run")
    with pytest.raises(UndeterminedError, match="rank 0 gave no answer"):
        exchange(stranger, BASE, timeout_s=1.5)
    gather.join()
    ((finding,),) = answers
    assert finding.severity is Severity.UNDETERMINED
    assert (finding.culprit, finding.message) == (
        "rank 1",
        "did not tell its environment within 1.5 s",
    )


def test_a_rank_0_that_is_not_there_is_undetermined() -> None:
    rank = Rank(1, 2, "127.0.0.1", free_port(), b"")
    with pytest.raises(
        UndeterminedError, match=r"does not answer at 127\.0\.0\.1:\d+ within 0\.3 s"
    ):
        exchange(rank, BASE, timeout_s=0.3)


def make_environment(folder: Path, trl: str) -> Path:
    run = run_uv(["venv", "--quiet", "--python", sys.executable, folder / trl])
    assert run.status == 0, run.messages
    (site,) = (folder / trl).glob("lib/*/site-packages")
    for name, version in (("trl", trl), ("torch", "2.13.0")):
        with zipfile.ZipFile(make_wheel(folder, name, version)) as wheel:
            wheel.extractall(site)
    return folder / trl / "bin" / "python"


def test_three_processes_one_of_them_odd(tmp_path: Path) -> None:
    usual, odd = make_environment(tmp_path, "1.16.0"), make_environment(tmp_path, "1.15.0")
    common = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = [sys.executable, "-m", "grpoenv", "verify", "--distributed", "--python"]
    processes = [
        subprocess.Popen(
            [*words, str(odd if rank == 1 else usual)],
            env={**os.environ, **common, "RANK": str(rank)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (2, 1, 0)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 1]
    assert outputs[:2] == ["", ""]
    assert outputs[2] == (
        f"rank 1 on {socket.gethostname()}\n"
        "  problem       trl is 1.15.0, and 1.16.0 on ranks 0, 2\n"
        "  evidence      package trl: 1.15.0 against 1.16.0\n"
        "unsound: 1 problem\n"
    )
