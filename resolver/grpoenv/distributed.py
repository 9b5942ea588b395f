"""Compare the environments of all ranks of a run, and name the one that differs.

``torchrun … -m grpoenv verify --distributed`` starts one process for each rank. Rank 0 listens on
the port after ``MASTER_PORT`` (torchrun's own store has that one), the others send it what their
environment is, and get the result back. Plain sockets, no torch: the environment may be broken.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpoenv.checks import Finding, Severity
from grpoenv.checks.interface import MANAGED
from grpoenv.distributions import Distribution, distributions
from grpoenv.errors import InputError, UndeterminedError
from grpoenv.probe import Probe

__all__ = ["Rank", "compare", "describe", "exchange", "read_rank"]

_LIMIT_BYTES = 8 * 1024 * 1024
_RETRY_S = 0.2
_LENGTH = struct.Struct("!I")
_DIGEST_BYTES = hashlib.sha256().digest_size
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Description = dict[str, str]
"""What an environment is, as rows that are compared: ``"package torch"`` → ``"2.13.0"``."""


@dataclass(frozen=True)
class Rank:
    """One process of a run: which one, of how many, and where rank 0 listens.

    ``secret`` is what all ranks of one run know, so that no other run's answer is taken for ours.
    """

    rank: int
    world_size: int
    address: str
    port: int
    secret: bytes


def read_rank(variables: Mapping[str, str]) -> Rank:
    """Read what torchrun tells each process; raises InputError if it did not start this one."""
    missing = [name for name in _NEEDED if not variables.get(name)]
    if missing:
        raise InputError(
            f"--distributed needs {', '.join(missing)}, and the environment has not got it",
            remedy="torchrun --nnodes … --nproc-per-node … -m grpoenv verify --distributed",
        )
    try:
        rank, world_size, port = (
            int(variables[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")
        )
    except ValueError as error:
        raise InputError(f"RANK, WORLD_SIZE and MASTER_PORT have to be numbers: {error}") from error
    secret = f"{variables.get('TORCHELASTIC_RUN_ID', '')}/{variables['MASTER_ADDR']}:{port}"
    return Rank(rank, world_size, variables["MASTER_ADDR"], port + 1, secret.encode())


def describe(probe: Probe) -> Description:
    """Return what the environment of ``probe`` is, row by row."""
    gpu = probe.gpu
    rows = {
        "host": socket.gethostname(),
        "python": f"{probe.interpreter.implementation} {probe.interpreter.version}",
        "platform": f"{probe.system} {probe.machine}, {probe.libc}",
        "driver": gpu.driver or gpu.answer.value,
        "gpus": ", ".join(device.name for device in gpu.devices) or gpu.answer.value,
    }
    for name, distribution in distributions(probe.interpreter.site_folders).items():
        rows[f"package {name}"] = str(distribution.version)
        if name in MANAGED:
            rows[f"files {name}"] = _files_digest(distribution)
    return rows


def _files_digest(distribution: Distribution) -> str:
    """Return one digest of the hashes of a package's own files, by its RECORD.

    What an installer writes itself (scripts, its own notes in ``.dist-info``) is left out: it
    differs between uv and pip, and from place to place.
    """
    site = f"{distribution.info.parent}/"
    rows = sorted(
        f"{path.removeprefix(site)} {digest}"
        for path, _, digest in distribution.recorded_hashes()
        if path.startswith(site) and not path.startswith(str(distribution.info))
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def exchange(rank: Rank, mine: Description, *, timeout_s: float) -> list[Finding]:
    """Send ``mine`` to rank 0, or gather all there; every rank returns the same findings.

    Raises UndeterminedError if rank 0 cannot be reached within ``timeout_s`` seconds. A rank that
    does not answer in that time is a finding.
    """
    deadline = time.monotonic() + timeout_s
    if rank.rank == 0:
        return _gather(rank, mine, deadline, timeout_s)
    with _connect(rank, deadline, timeout_s) as connection:
        try:
            _send(connection, rank.secret, {"rank": rank.rank, "rows": mine})
            answer = _receive(connection, rank.secret)
        except (OSError, ValueError) as error:
            raise UndeterminedError(f"rank 0 gave no answer: {error}") from error
    return [_finding(row) for row in answer["findings"]]


def _gather(rank: Rank, mine: Description, deadline: float, timeout_s: float) -> list[Finding]:
    found, connections = {0: mine}, list[socket.socket]()
    try:
        server = socket.create_server(("", rank.port), backlog=rank.world_size)
    except OSError as error:
        raise UndeterminedError(
            f"rank 0 cannot listen on port {rank.port}: {error.strerror}",
            remedy="give torchrun another --master-port: the port after it has to be free",
        ) from error
    with server:
        while len(found) < rank.world_size:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            connection.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                answer = _receive(connection, rank.secret)
                found[int(answer["rank"])] = dict(answer["rows"])
                connections.append(connection)
            except (OSError, ValueError, KeyError, TypeError):
                connection.close()  # not one of ours: a port scan, or another run
    findings = compare(found) + _absent(found, rank.world_size, timeout_s)
    for connection in connections:
        with connection:
            _reply(connection, rank.secret, findings)
    return findings


def _absent(found: Mapping[int, Description], world_size: int, timeout_s: float) -> list[Finding]:
    absent = [str(number) for number in range(world_size) if number not in found]
    if not absent:
        return []
    return [
        Finding(
            Severity.UNDETERMINED,
            f"rank {', '.join(absent)}",
            f"did not tell its environment within {timeout_s:g} s",
            "torchrun's RANK and WORLD_SIZE",
        )
    ]


def compare(found: Mapping[int, Description]) -> list[Finding]:
    """Return a finding for each row in which ranks differ, and each group of ranks that is odd."""
    findings = []
    for key in dict.fromkeys(key for rows in found.values() for key in rows if key != "host"):
        values = {rank: rows.get(key, "") for rank, rows in sorted(found.items())}
        kind, _, name = key.partition(" ")
        if kind == "files" and len({rows.get(f"package {name}") for rows in found.values()}) > 1:
            continue  # another version has other files
        (usual, _), *others = Counter(values.values()).most_common()
        rest = _ranks([rank for rank in values if values[rank] == usual])
        for value, _ in others:
            odd = [rank for rank in values if values[rank] == value]
            hosts = ", ".join(sorted({found[rank].get("host", "?") for rank in odd}))
            findings.append(
                Finding(
                    _severity(key),
                    f"{_ranks(odd)} on {hosts}",
                    _difference(kind, name, value, usual, rest),
                    f"{key}: {value or 'none'} against {usual or 'none'}",
                    "distributed",
                )
            )
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))


def _difference(kind: str, name: str, value: str, usual: str, rest: str) -> str:
    if kind == "files":
        return f"{name} has other files than on {rest}, at the same version"
    absent = "not installed" if name else "unknown"
    return f"{name or kind} is {value or absent}, and {usual or absent} on {rest}"


def _ranks(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}"


def _severity(key: str) -> Severity:
    kind, _, name = key.partition(" ")
    if key == "python" or kind == "files" or (kind == "package" and name in MANAGED):
        return Severity.PROBLEM
    return Severity.WARNING


def _connect(rank: Rank, deadline: float, timeout_s: float) -> socket.socket:
    while True:
        left = deadline - time.monotonic()
        try:
            connection = socket.create_connection((rank.address, rank.port), max(left, 0.01))
            connection.settimeout(timeout_s)
            return connection
        except OSError as error:
            if left <= 0:
                raise UndeterminedError(
                    f"rank 0 does not answer at {rank.address}:{rank.port} within {timeout_s:g} s: "
                    f"{error}"
                ) from error
            time.sleep(_RETRY_S)


def _reply(connection: socket.socket, secret: bytes, findings: list[Finding]) -> None:
    rows = [
        {
            "severity": finding.severity.value,
            "culprit": finding.culprit,
            "message": finding.message,
            "evidence": finding.evidence,
        }
        for finding in findings
    ]
    try:
        _send(connection, secret, {"findings": rows})
    except OSError:
        return  # that rank is gone; it says so itself, or torchrun does


def _finding(row: dict[str, str]) -> Finding:
    return Finding(
        Severity(row["severity"]), row["culprit"], row["message"], row["evidence"], "distributed"
    )


def _send(connection: socket.socket, secret: bytes, value: object) -> None:
    """Send a message: its length, its HMAC with ``secret``, and the value as JSON."""
    raw = json.dumps(value).encode()
    connection.sendall(_LENGTH.pack(len(raw)) + hmac.digest(secret, raw, "sha256") + raw)


def _receive(connection: socket.socket, secret: bytes) -> dict[str, Any]:
    """Receive a message; raises ValueError if it is none of ours."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > _LIMIT_BYTES:
        raise ValueError(f"a message of {length:,} bytes")
    signature = _exactly(connection, _DIGEST_BYTES)
    raw = _exactly(connection, length)
    if not hmac.compare_digest(signature, hmac.digest(secret, raw, "sha256")):
        raise ValueError("a message of another run")
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 1 << 16))
        if not part:
            raise ValueError("the connection ended inside a message")
        parts += part
    return bytes(parts)
