"""When the update check may run, and every way to stop it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from grpoenv.update_policy import (
    LIMITS,
    OPT_OUTS,
    next_step,
    opted_out,
    process_refusal,
    retry_after_s,
)

NOW = 1_800_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR


def test_the_opt_outs_are_these_and_no_others() -> None:
    assert set(OPT_OUTS) == {
        "GRPOENV_NO_UPDATE_CHECK",
        "GRPOENV_OFFLINE",
        "UNSLOTH_DISABLE_AUTO_UPDATES",
        "NO_UPDATE_NOTIFIER",
        "DO_NOT_TRACK",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "UV_OFFLINE",
        "PIP_NO_INDEX",
        "HF_HUB_DISABLE_UPDATE_CHECK",
        "CI",
        "PYTEST_CURRENT_TEST",
    }


@pytest.mark.parametrize("value", ["1", "true", "", "false"])
@pytest.mark.parametrize("name", OPT_OUTS)
def test_any_value_but_0_stops_the_check(name: str, value: str) -> None:
    assert opted_out({"HOME": "/root", name: value}) == name


@pytest.mark.parametrize("name", OPT_OUTS)
def test_0_does_not_stop_the_check(name: str) -> None:
    assert opted_out({name: "0"}) is None


@pytest.mark.parametrize("name", OPT_OUTS)
def test_a_question_of_the_user_is_refused_only_offline(name: str) -> None:
    offline = {"GRPOENV_OFFLINE", "UV_OFFLINE", "PIP_NO_INDEX"} | {
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    }
    assert opted_out({name: "1"}, explicit=True) == (name if name in offline else None)


def test_the_limits_are_those_of_the_design() -> None:
    assert (LIMITS.connect_s, LIMITS.read_s, LIMITS.total_s) == (0.5, 0.5, 1.5)
    assert (LIMITS.body_bytes, LIMITS.state_bytes) == (65536, 4096)
    assert (LIMITS.cadence_s, LIMITS.jitter, LIMITS.first_retry_s) == (DAY, 0.10, HOUR)
    assert (LIMITS.cli_wait_s, LIMITS.result_life_s) == (0.15, 7 * DAY)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_only_rank_0_checks(name: str) -> None:
    assert process_refusal({name: "3"}) == f"{name} is not 0"
    assert process_refusal({name: "0"}) is None


def test_a_forked_child_does_not_check() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(process_refusal({})).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"a forked child"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_multiprocessing_worker_does_not_check(method: str) -> None:
    program = (
        "import multiprocessing\n"
        "from grpoenv.update_policy import process_refusal\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    with context.Pool(1) as pool:\n"
        "        print(pool.apply(process_refusal, ({},)))\n"
        "    print(process_refusal({}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines() == ["a worker process", "None"]


def test_the_first_run_only_leaves_a_stamp() -> None:
    assert next_step(None, 0, NOW, "/env") == "stamp"


def test_a_stamp_from_the_future_counts_as_just_checked() -> None:
    assert next_step(NOW + 1, 0, NOW, "/env") == "stamp"


def test_a_day_and_a_jitter_pass_between_checks() -> None:
    assert next_step(NOW - DAY + 1, 0, NOW, "/env") == "rest"
    assert next_step(NOW - 1.1 * DAY, 0, NOW, "/env") == "ask"


def test_an_old_state_is_due_and_not_a_first_run() -> None:
    assert next_step(NOW - 30 * DAY, 0, NOW, "/env") == "ask"


def test_the_jitter_is_between_0_and_10_percent_and_fixed_per_environment() -> None:
    pauses = {retry_after_s(0, f"/env/{number}") for number in range(200)}
    assert len(pauses) == 200
    assert DAY <= min(pauses) < 1.01 * DAY
    assert 1.09 * DAY < max(pauses) <= 1.10 * DAY
    assert retry_after_s(0, "/env/7") == retry_after_s(0, "/env/7")
    assert retry_after_s(0, "/bad\udcff") > 0


@pytest.mark.parametrize(
    ("failures", "hours"), [(1, 1), (2, 2), (3, 4), (5, 16), (6, 24), (10**9, 24)]
)
def test_failures_back_off_from_an_hour_to_a_day(failures: int, hours: int) -> None:
    assert retry_after_s(failures, "/env") == hours * HOUR
