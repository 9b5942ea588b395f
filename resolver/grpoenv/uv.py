"""Run uv: find it, give it a clean environment, follow what it says, name what went wrong."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from grpoenv.errors import OperationError

__all__ = ["UvRun", "explain_failure", "find_uv", "redacted", "run_uv", "uv_environment"]

_PASSED_ON = [
    "UV_CACHE_DIR",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_CONCURRENT_INSTALLS",
    "UV_CONFIG_FILE",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INDEX_URL",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_LINK_MODE",
    "UV_NATIVE_TLS",
    "UV_NO_CACHE",
    "UV_OFFLINE",
    "UV_SYSTEM_CERTS",
]
"""What may say how to reach packages. All other UV_* variables (constraints, overrides, targets,
torch backends, which hosted images set) could change what is installed."""
_PASSED_ON_PATTERN = re.compile(r"UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)")
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_FINDING = threading.Lock()
"""uv asks sysconfig where it lies, and of two threads that ask first, one may read half an answer."""
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class UvRun:
    """How a run of uv ended: its exit status, and what it wrote, credentials taken out."""

    status: int
    output: str
    messages: str


def find_uv() -> Path:
    """Return the uv that was installed with grpoenv; raises OperationError if it is not there."""
    try:
        import uv

        with _FINDING:
            return Path(uv.find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise OperationError(
            "the program uv is not where its package should have put it",
            remedy="pip install --force-reinstall uv",
        ) from error


def uv_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return ``environment`` without what could change which packages uv installs, or where to."""
    kept = {}
    for name, value in environment.items():
        if name.startswith("UV_"):
            if name in _PASSED_ON or _PASSED_ON_PATTERN.fullmatch(name):
                kept[name] = value
        elif name not in _DROPPED:
            kept[name] = value
    return {**kept, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}


def run_uv(
    arguments: Sequence[str | Path],
    *,
    input_text: str = "",
    timeout_s: float | None = None,
    on_message: Callable[[str], None] = lambda message: None,
) -> UvRun:
    """Run uv with ``arguments`` away from any project's settings and return how it ended.

    ``on_message`` gets each line that uv writes to standard error, as it comes. Raises
    OperationError if uv is missing or has not ended after ``timeout_s`` seconds (it is killed).
    """
    with (
        tempfile.TemporaryDirectory(prefix="grpoenv-") as folder,
        subprocess.Popen(
            [str(find_uv()), *map(str, arguments)],
            cwd=folder,
            env=uv_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        try:
            return _follow(process, input_text, timeout_s, on_message)
        except BaseException:
            process.kill()  # interrupted: uv must not go on behind our back
            raise


def _follow(
    process: subprocess.Popen[str],
    input_text: str,
    timeout_s: float | None,
    on_message: Callable[[str], None],
) -> UvRun:
    assert process.stdin and process.stdout and process.stderr
    output: list[str] = []
    reader = threading.Thread(target=lambda out=process.stdout: output.append(out.read()))
    reader.start()
    watchdog = threading.Timer(timeout_s, process.kill) if timeout_s else None
    if watchdog:
        watchdog.daemon = True
        watchdog.start()
    # A broken pipe means that uv has ended already: it says why on its own.
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(input_text)
    messages = []
    for line in process.stderr:
        message = redacted(_ANSI.sub("", line.rstrip()))
        messages.append(message)
        on_message(message)
    status = process.wait()
    reader.join()
    if watchdog:
        if watchdog.finished.is_set():
            raise OperationError(
                f"uv had not ended after {timeout_s:.0f} s and was stopped",
                remedy="try again on a faster connection, or with UV_DEFAULT_INDEX set to a mirror",
            )
        watchdog.cancel()
    return UvRun(status, redacted(output[0]), "\n".join(messages))


def redacted(text: str) -> str:
    """Return ``text`` with the user:password part of every address replaced."""
    return _CREDENTIALS.sub("****@", text)


_CAUSES = (
    (r"[Hh]ash mismatch", "a file from the index does not have the hash that the lock has", ""),
    (
        r"No space left|os error 28|[Qq]uota exceeded",
        "the disk is full",
        "free some space, or move uv's cache: export UV_CACHE_DIR=/path/with/space",
    ),
    (r"Read-only file system|os error 30", "the file system is read-only", ""),
    (r"Permission denied|os error 13", "permission was denied", ""),
    (
        r"externally managed",
        "the interpreter is managed by the system",
        "install into a virtual environment: add --venv .venv",
    ),
    (
        r"certificate|InvalidCertificate|UnknownIssuer",
        "the index's certificate was not accepted; a wrong clock or a proxy can cause it",
        "check the date, or set SSL_CERT_FILE to your proxy's certificate",
    ),
    (
        r"[Nn]etwork connectivity is disabled|not.{0,20}in the cache",
        "uv is offline and the package is not in its cache",
        "unset UV_OFFLINE, or name a folder of wheels: export UV_FIND_LINKS=/path/to/wheels",
    ),
    (
        r"error sending request|[Cc]ould not connect|dns error|tcp connect|timed out"
        + r"|Connection (refused|reset)|Failed to fetch|client error",
        "the package index could not be reached",
        "check the connection, or name a folder of wheels: export UV_FIND_LINKS=/path/to/wheels",
    ),
    (
        r"not found in the|no version of|[Nn]o solution|there is no|no wheels",
        "the index does not have what the lock asks for",
        "if you use a mirror, it may be behind: set UV_DEFAULT_INDEX to one that is complete",
    ),
)


def explain_failure(messages: str) -> tuple[str, str]:
    """Return the cause of uv's failure in words and what to do about it, from what uv wrote.

    uv's exit status does not tell a wrong input from a lost connection, so its words have to.
    """
    for pattern, cause, remedy in _CAUSES:
        if re.search(pattern, messages):
            return cause, remedy
    return "uv failed", ""
