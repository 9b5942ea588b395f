"""``.ci/follow-upstream``: what it runs and concludes, with a stand-in for grpoenv, and its workflow."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "follow-upstream"
WORKFLOW = ROOT / ".github" / "workflows" / "follow-upstream.yml"
STAND_IN = """#!/bin/sh
# Stands in for grpoenv: notes how it is called. A scan finds NEW; "bad" is a stack that fails, and
# uv finds no set for "none".
echo "$*" >> "$CALLS"
case "$*" in
    "matrix scan --write") printf '%s' "$NEW" >> "$RELEASES" ;;
    "matrix add "*none*) exit 4 ;;
    "matrix add "*) echo "$3" | sed 's/==/-/' ;;
    "matrix test trl-1.16"*) exit "$CONTROL_CODE" ;;
    "matrix test "*) exit "$CANARY_CODE" ;;
    "matrix lint") exit "$LINT_CODE" ;;
    "matrix show --json")
        echo '{"stacks": [{"id": "trl-bad", "targets": [{"failures": []}, {"failures": [{}]}]},'
        echo '{"id": "trl-good", "targets": [{"failures": []}]}]}' ;;
    "matrix show "*) echo "all of $3" ;;
esac
"""


def release(version: str, yanked: str = "false") -> str:
    return f'{{"package": "trl", "version": "{version}", "yanked": {yanked}}}\n'


def follow(
    folder: Path, new: str, *, known: str = release("old"), **codes: int
) -> tuple[int, list[str], str]:
    """Run the script, with the exit ``codes`` of control, canary and lint where they are not 0.

    Returns its own, how it called grpoenv, and its report.
    """
    program, releases, calls, report = (
        folder / name for name in ("grpoenv", "releases", "calls", "report")
    )
    program.write_text(STAND_IN)
    program.chmod(0o755)
    releases.write_text('{"schema": 1}\n' + known)
    places = {"GRPOENV": program, "CAMPAIGN": folder / "c", "CALLS": calls, "RELEASES": releases}
    environment = {name: str(place) for name, place in places.items()}
    for name in ("control", "canary", "lint"):
        environment[f"{name.upper()}_CODE"] = str(codes.get(name, 0))
    environment = {**os.environ, **environment, "NEW": new}
    done = subprocess.run([SCRIPT, report], env=environment, capture_output=True, text=True)
    text = report.read_text() if report.exists() else done.stderr
    seen = [line for line in calls.read_text().splitlines() if "show" not in line]
    return done.returncode, [line.replace(str(folder), "") for line in seen], text


def test_a_day_without_a_release_runs_nothing(tmp_path: Path) -> None:
    assert follow(tmp_path, "") == (0, ["matrix scan --write"], "no new stack\n")


def test_the_first_scan_finds_nothing_new(tmp_path: Path) -> None:
    assert follow(tmp_path, release("good"), known="")[1] == ["matrix scan --write"]


def test_what_was_withdrawn_or_has_no_set_is_no_canary(tmp_path: Path) -> None:
    code, calls, report = follow(tmp_path, release("gone", "true") + release("none"))
    assert (code, report) == (0, "no new stack\n")
    assert calls == ["matrix scan --write", "matrix add trl==none --python 3.11"]


def test_new_stacks_run_after_the_control_and_are_recorded(tmp_path: Path) -> None:
    code, calls, report = follow(tmp_path, release("good") + release("none"))
    assert code == 0  # that an old stack fails is nothing new
    assert calls == [
        "matrix scan --write",
        "matrix add trl==good --python 3.11",
        "matrix add trl==none --python 3.11",
        "matrix test trl-1.16 --python 3.11 --campaign /c/control",
        "matrix test trl-good --python 3.11 --campaign /c/canary --record",
        "matrix lint",
    ]
    assert "beside trl-1.16" in report
    assert "    all of trl-good\n" in report


def test_a_new_stack_that_fails_is_recorded_and_told(tmp_path: Path) -> None:
    code, calls, report = follow(tmp_path, release("good") + release("bad"))
    assert code == 1
    assert "matrix test trl-bad trl-good --python 3.11 --campaign /c/canary --record" in calls
    assert "    all of trl-bad\n" in report


def test_a_canary_that_this_machine_cannot_take_further_is_no_failure(tmp_path: Path) -> None:
    code, calls, report = follow(tmp_path, release("good"), canary=3)
    assert (code, calls[-1]) == (0, "matrix lint")
    assert "    all of trl-good\n" in report


@pytest.mark.parametrize("codes", [{"canary": 4}, {"canary": 2}, {"lint": 1}])
def test_a_change_that_something_went_wrong_with_is_not_reported(
    tmp_path: Path, codes: dict[str, int]
) -> None:
    code, _, report = follow(tmp_path, release("good"), **codes)
    assert (code, report) == (4, "")


def test_nothing_is_concluded_where_the_control_does_not_hold(tmp_path: Path) -> None:
    code, calls, report = follow(tmp_path, release("good"), control=1)
    assert (code, len(calls)) == (3, 3)
    assert report.splitlines()[-1] == (
        "trl-1.16, the control, does not come as far as it did: nothing is concluded"
    )


def test_the_workflow_runs_the_script_every_day_and_its_shell_is_well_formed() -> None:
    workflow = yaml.load(WORKFLOW.read_text("utf-8"), yaml.BaseLoader)  # "on" stays a word
    assert len(workflow["on"]["schedule"][0]["cron"].split()) == 5
    (job,) = workflow["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert any(".ci/follow-upstream" in run for run in runs)
    for run in runs:
        subprocess.run(["bash", "-n", "-c", run], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck here")
def test_the_script_is_as_shellcheck_wants_it() -> None:
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
