"""Running uv: a clean environment, no credentials shown, causes named, never for ever."""

import os
import sys
import time
from pathlib import Path

import pytest
import uv

from grpoenv import uv as running
from grpoenv.errors import OperationError
from grpoenv.uv import explain_failure, find_uv, redacted, run_uv, uv_environment


def test_variables_that_could_change_what_is_installed_are_dropped() -> None:
    given = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy",
        "UV_CONSTRAINT": "/missing",
        "UV_BUILD_CONSTRAINT": "/missing",
        "UV_OVERRIDE": "x",
        "UV_SYSTEM_PYTHON": "true",
        "UV_TORCH_BACKEND": "auto",
        "UV_TARGET": "/x",
        "UV_EXCLUDE_NEWER": "2020-01-01",
        "PYTHONPATH": "/x",
        "VIRTUAL_ENV": "/x",
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_INDEX_MIRROR_PASSWORD": "secret",
        "UV_CACHE_DIR": "/cache",
    }
    kept = uv_environment(given)
    assert {name for name in given if name in kept} == {
        "PATH",
        "HTTPS_PROXY",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_MIRROR_PASSWORD",
        "UV_CACHE_DIR",
    }


def test_a_constraint_file_that_does_not_exist_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, venv: Path
) -> None:
    monkeypatch.setenv("UV_CONSTRAINT", "/does/not/exist")
    assert run_uv(["pip", "list", "--python", venv]).status == 0


def test_credentials_are_taken_out() -> None:
    text = "error: https://user:pa55@mirror.example/simple and http://token@x/ and a@b"
    assert redacted(text) == (
        "error: https://****@mirror.example/simple and http://****@x/ and a@b"
    )


def test_uv_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise FileNotFoundError("no uv")

    monkeypatch.setattr(uv, "find_uv_bin", missing)
    with pytest.raises(OperationError) as caught:
        find_uv()
    assert caught.value.remedy == "pip install --force-reinstall uv"


def test_the_package_uv_missing_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(OperationError) as caught:
        find_uv()
    assert caught.value.remedy == "pip install --force-reinstall uv"


def fake_uv(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "uv"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(running, "find_uv", lambda: program)


def test_messages_come_as_they_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_uv(monkeypatch, tmp_path, "echo out; echo one >&2; echo two >&2; exit 3")
    heard: list[str] = []
    run = run_uv(["x"], on_message=heard.append)
    assert heard == ["one", "two"]
    assert (run.status, run.output, run.messages) == (3, "out\n", "one\ntwo")


def test_a_run_that_does_not_end_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_uv(monkeypatch, tmp_path, "exec sleep 60")
    started = time.monotonic()
    with pytest.raises(OperationError, match="uv had not ended after 0 s and was stopped"):
        run_uv(["x"], timeout_s=0.3)
    assert time.monotonic() - started < 30


def test_an_interrupted_run_takes_uv_down_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_uv(monkeypatch, tmp_path, f"echo $$ > {tmp_path}/pid; echo go >&2; exec sleep 60")

    def interrupt(message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_uv(["x"], on_message=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ("Hash mismatch for `torch==2.6.0`", "does not have the hash that the lock has"),
        ("failed to write: No space left on device (os error 28)", "the disk is full"),
        ("Read-only file system (os error 30)", "the file system is read-only"),
        ("The interpreter at /usr is externally managed", "managed by the system"),
        ("invalid peer certificate: UnknownIssuer", "certificate was not accepted"),
        ("error sending request for url (https://x/)", "could not be reached"),
        ("dns error: failed to lookup address information", "could not be reached"),
        ("Because torch was not found in the package registry", "does not have what the lock"),
        ("Because there is no version of torch==9", "does not have what the lock"),
        ("something new", "uv failed"),
    ],
)
def test_the_cause_is_named_from_what_uv_says(messages: str, cause: str) -> None:
    assert cause in explain_failure(messages)[0]
