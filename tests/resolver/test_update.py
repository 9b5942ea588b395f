"""The update check as a whole: what a run starts, remembers and shows."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from grpoenv import __version__
from grpoenv.update import (
    BackgroundCheck,
    CheckContext,
    check_now,
    log_notice,
    start_background_check,
)
from grpoenv.update_policy import LIMITS, OPT_OUTS
from grpoenv.update_result import NewerRelease, NotDetermined, UpdateResult, UpToDate, notice
from grpoenv.update_state import UpdateState, read_state, write_state

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


class World:
    """A check's surroundings in a test, with an index that answers `result` and counts."""

    def __init__(self, folder: Path, result: UpdateResult | Exception) -> None:
        self.result = result
        self.asked: list[Mapping[str, str]] = []
        self.now = NOW
        self.context = CheckContext(
            environ={"HOME": "/nowhere"},
            cache_folder=folder / "grpoenv",
            config_folder=folder / "config",
            installed="0.1.0",
            prefix="/env",
            clock=lambda: self.now,
            query=self.query,
        )

    def query(self, installed: str, environ: Mapping[str, str]) -> UpdateResult:
        assert installed == "0.1.0"
        assert threading.current_thread() is not threading.main_thread()
        self.asked.append(environ)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def run(self) -> BackgroundCheck:
        check = start_background_check(self.context)
        assert check.wait(10)
        return check

    @property
    def state(self) -> UpdateState | None:
        return read_state(self.context.cache_folder)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, NewerRelease("0.1.0", "0.2.0"))


def test_the_first_run_asks_nothing_and_the_next_day_asks_once(world: World) -> None:
    assert outcome(world.run()) == (None, None)
    assert world.state == UpdateState(NOW, 0, "0.1.0", None)
    world.now += 1.2 * DAY
    assert world.run().earlier is None
    assert len(world.asked) == 1
    assert world.state == UpdateState(world.now, 0, "0.1.0", "0.2.0")
    world.now += 60
    assert world.run().earlier == NewerRelease("0.1.0", "0.2.0")
    assert len(world.asked) == 1


def outcome(check: BackgroundCheck) -> tuple[NewerRelease | None, str | None]:
    return check.earlier, check.refused


def due(world: World, **state: object) -> None:
    assert write_state(world.context.cache_folder, UpdateState(NOW - 2 * DAY, **state))


def test_a_run_that_is_not_due_starts_no_thread(world: World) -> None:
    assert write_state(world.context.cache_folder, UpdateState(NOW - 60))
    before = threading.active_count()
    check = start_background_check(world.context)
    assert outcome(check) == (None, None)
    assert threading.active_count() == before


def test_the_thread_is_a_daemon_and_the_only_one(world: World) -> None:
    due(world)
    release = threading.Event()
    context = CheckContext(
        **{**vars(world.context), "query": lambda *_: (release.wait(10), UpToDate("0.1.0"))[1]}
    )
    before = set(threading.enumerate())
    check = start_background_check(context)
    (thread,) = set(threading.enumerate()) - before
    assert (thread.daemon, thread.name) == (True, "grpoenv-update")
    assert not check.wait(0.05)
    release.set()
    assert check.wait(10)


def test_the_stamp_goes_before_the_request(world: World) -> None:
    due(world)
    seen: list[UpdateState | None] = []

    def query(installed: str, environ: Mapping[str, str]) -> UpdateResult:
        seen.append(world.state)
        return UpToDate(installed)

    context = CheckContext(**{**vars(world.context), "query": query})
    assert start_background_check(context).wait(10)
    assert seen == [UpdateState(NOW, 1)]
    assert world.state == UpdateState(NOW, 0, "0.1.0", None)


def test_failures_back_off_and_keep_what_was_known(world: World) -> None:
    due(world, installed="0.1.0", newest="0.2.0")
    world.result = NotDetermined("offline")
    pauses = []
    for _ in range(7):
        asked = len(world.asked)
        start = world.now
        while len(world.asked) == asked:
            world.now += 1800
            world.run()
        pauses.append((world.now - start) / 3600)
    assert pauses[1:] == [1, 2, 4, 8, 16, 24]
    assert world.state == UpdateState(world.now, 7, "0.1.0", "0.2.0")
    world.result = UpToDate("0.1.0")
    world.now += 2 * DAY
    world.run()
    assert world.state == UpdateState(world.now, 0, "0.1.0", None)


def test_a_stamp_from_the_future_is_moved_to_now_without_asking(world: World) -> None:
    write_state(world.context.cache_folder, UpdateState(NOW + 400 * DAY, 0, "0.1.0", "0.2.0"))
    assert world.run().earlier == NewerRelease("0.1.0", "0.2.0")
    assert world.asked == []
    assert world.state == UpdateState(NOW, 0, "0.1.0", "0.2.0")


def test_a_result_older_than_a_week_is_not_shown(world: World) -> None:
    write_state(world.context.cache_folder, UpdateState(NOW - 8 * DAY, 0, "0.1.0", "0.2.0"))
    assert world.run().earlier is None


def test_a_result_about_another_installed_version_is_not_shown(world: World) -> None:
    write_state(world.context.cache_folder, UpdateState(NOW - 60, 0, "0.0.9", "0.1.0"))
    assert world.run().earlier is None


@pytest.mark.parametrize("name", OPT_OUTS)
def test_each_opt_out_stops_everything(world: World, name: str) -> None:
    due(world, installed="0.1.0", newest="0.2.0")
    context = CheckContext(**{**vars(world.context), "environ": {name: "1"}})
    check = start_background_check(context)
    assert outcome(check) == (None, name)
    assert check.wait(1) and world.asked == []


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_other_ranks_stay_silent(world: World, name: str) -> None:
    due(world, installed="0.1.0", newest="0.2.0")
    context = CheckContext(**{**vars(world.context), "environ": {name: "1"}})
    assert outcome(start_background_check(context)) == (None, f"{name} is not 0")


def test_a_program_without_a_terminal_stays_silent(world: World) -> None:
    due(world, installed="0.1.0", newest="0.2.0")
    check = start_background_check(world.context, terminal=False)
    assert outcome(check) == (None, "not on a terminal")


@pytest.mark.parametrize(
    ("config", "asks"),
    [
        ("[update]\ncheck = false\n", False),
        ("[update]\ncheck = 1\n", False),
        ("[update]\ncheck = true\n", True),
        ("[other]\n", True),
        ("update = 3\n", False),
        ("not toml", False),
        ("a = 1\na = 2\n", False),
        ("#" * 70_000, False),
        (b"\xff\xfe", False),
    ],
)
def test_the_config_file_can_forbid_it(world: World, config: str | bytes, asks: bool) -> None:
    due(world)
    folder = world.context.config_folder
    assert folder is not None
    folder.mkdir()
    (folder / "config.toml").write_bytes(config.encode() if isinstance(config, str) else config)
    world.run()
    assert len(world.asked) == asks


def test_a_cache_that_cannot_be_written_means_no_request(world: World, tmp_path: Path) -> None:
    (tmp_path / "grpoenv").write_text("a file where the folder should be")
    assert outcome(world.run()) == (None, None)
    assert world.asked == []


def test_a_state_that_cannot_be_replaced_means_no_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(world)
    monkeypatch.setattr("grpoenv.update.write_state", lambda *_: False)
    world.run()
    assert world.asked == []


def test_a_linked_folder_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    write_state(tmp_path / "elsewhere", UpdateState(NOW - 2 * DAY))
    (tmp_path / "grpoenv").symlink_to(tmp_path / "elsewhere")
    world.run()
    assert world.asked == []
    assert read_state(tmp_path / "elsewhere") == UpdateState(NOW - 2 * DAY)


def test_many_programs_at_once_ask_once(world: World) -> None:
    due(world)
    checks = [start_background_check(world.context) for _ in range(20)]
    assert all(check.wait(10) for check in checks)
    assert len(world.asked) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("no", name="httpx"), "httpx cannot be imported"),
        (RuntimeError("secret"), "the check failed with RuntimeError"),
        (RecursionError(), "the check failed with RecursionError"),
    ],
)
def test_nothing_that_goes_wrong_gets_out(
    world: World, capfd: pytest.CaptureFixture[str], error: Exception, reason: str
) -> None:
    due(world)
    world.result = error
    world.run()
    assert capfd.readouterr() == ("", "")
    assert world.state == UpdateState(NOW, 1)
    assert check_now(world.context) == NotDetermined(reason)


def test_no_thread_to_be_had_is_not_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    due(world)
    monkeypatch.setattr(threading.Thread, "start", fail)
    assert start_background_check(world.context).refused == "no thread could be started"
    assert check_now(world.context) == NotDetermined("no thread could be started")


def test_a_user_can_ask_at_any_time_and_the_answer_is_kept(world: World) -> None:
    assert check_now(world.context) == NewerRelease("0.1.0", "0.2.0")
    assert world.run().earlier == NewerRelease("0.1.0", "0.2.0")
    assert len(world.asked) == 1


def test_a_user_who_asks_offline_is_told_so(world: World) -> None:
    context = CheckContext(**{**vars(world.context), "environ": {"UV_OFFLINE": "1"}})
    assert check_now(context) == NotDetermined("UV_OFFLINE is set")
    assert world.asked == []


def test_a_name_service_that_hangs_does_not_hold_the_user(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("index_question_s", "total_s", "fork_wait_s"):
        monkeypatch.setattr(LIMITS, name, 0.1)
    release = threading.Event()
    context = CheckContext(
        **{**vars(world.context), "query": lambda *_: (release.wait(10), UpToDate("1"))[1]}
    )
    assert check_now(context) == NotDetermined("the index did not answer in time")
    release.set()


def test_the_notice_is_one_line_of_our_own(caplog: pytest.LogCaptureFixture) -> None:
    assert notice(UpToDate("0.1.0")) is None
    assert notice(NotDetermined("x")) is None
    assert notice(None) is None
    text = notice(NewerRelease("0.1.0", "0.2.0"))
    assert text == (
        "grpoenv 0.2.0 is available (this is 0.1.0); `grpoenv update` says what it changes. "
        "GRPOENV_NO_UPDATE_CHECK=1 stops this message."
    )
    with caplog.at_level(logging.WARNING, logger="grpoenv.update"):
        log_notice(BackgroundCheck())
        assert caplog.messages == []
        log_notice(BackgroundCheck(earlier=NewerRelease("0.1.0", "0.2.0")))
        log_notice(BackgroundCheck(earlier=NewerRelease("0.1.0", "0.2.0")))
    assert caplog.messages == [text]


def child(program: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose cache is under `folder` and whose check is not refused by the tests."""
    inherited = {name: value for name, value in os.environ.items() if name not in OPT_OUTS}
    environ = {"XDG_CACHE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), **environ}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_importing_the_check_loads_nothing_heavy(tmp_path: Path) -> None:
    result = child(
        "import sys, grpoenv.update\n"
        "grpoenv.update.start_background_check()\n"
        "heavy = {'httpx', 'httpcore', 'packaging', 'importlib.metadata', 'ssl', 'asyncio',"
        " 'subprocess', 'tomlkit', 'torch', 'multiprocessing', 'platformdirs'}\n"
        "print(sorted(heavy & set(sys.modules)))\n",
        tmp_path,
        GRPOENV_OFFLINE="1",
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_the_end_of_a_program_is_not_delayed(tmp_path: Path) -> None:
    write_state(tmp_path / "grpoenv", UpdateState(time.time() - 2 * DAY))
    program = (
        "import time\n"
        "from grpoenv.update import CheckContext, start_background_check\n"
        "def query(*_):\n"
        "    time.sleep(30)\n"
        "check = start_background_check(CheckContext(query=query))\n"
        "print(check.refused, check.wait(0.3))\n"
    )
    start = time.monotonic()
    result = child(program, tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == ("None False\n", "", 0)
    assert time.monotonic() - start < 10
    state = read_state(tmp_path / "grpoenv")
    assert state is not None and state.failures == 1


def test_a_real_check_against_a_closed_port_says_nothing(tmp_path: Path) -> None:
    write_state(tmp_path / "grpoenv", UpdateState(time.time() - 2 * DAY))
    program = (
        "from grpoenv.update import start_background_check\n"
        "print(start_background_check().wait(20))\n"
    )
    result = child(program, tmp_path, UV_DEFAULT_INDEX="http://127.0.0.1:9/simple")
    assert (result.stdout, result.stderr) == ("True\n", "")
    state = read_state(tmp_path / "grpoenv")
    assert state is not None
    assert (state.failures, state.installed, state.newest) == (1, "", None)


def test_a_fork_during_the_imports_of_the_check_leaves_the_child_able_to_import(
    tmp_path: Path,
) -> None:
    write_state(tmp_path / "grpoenv", UpdateState(time.time() - 2 * DAY))
    program = (
        "import os, time\n"
        "from grpoenv.update import start_background_check\n"
        "start_background_check()\n"
        "time.sleep(0.02)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    import httpx, tomlkit\n"
        "    os._exit(7)\n"
        "for _ in range(100):\n"
        "    done, status = os.waitpid(child, os.WNOHANG)\n"
        "    if done:\n"
        "        break\n"
        "    time.sleep(0.1)\n"
        "else:\n"
        "    os.kill(child, 9)\n"
        "print(done != 0 and os.waitstatus_to_exitcode(status))\n"
    )
    result = child(program, tmp_path, UV_DEFAULT_INDEX="http://127.0.0.1:9/simple")
    assert result.stdout == "7\n"


def test_the_version_of_the_tests_is_the_package_s() -> None:
    assert CheckContext().installed == __version__
