"""Campaigns over made-up stacks, with real environments, processes, limits and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from depot import PYTHON, Depot, sha256
from grpoenv.campaign.campaign import cell_tasks, run_campaign
from grpoenv.campaign.cell import CellResult, CellTask
from grpoenv.campaign.cell_run import run_cell
from grpoenv.campaign.command import Wanted, run_stacks
from grpoenv.campaign.engines import LocalPool
from grpoenv.campaign.evidence import differences, record
from grpoenv.campaign.journal import Journal
from grpoenv.campaign.limits import LimitedRun, Limits, run_limited
from grpoenv.errors import InputError
from grpoenv.lockfile import CpuBuild
from grpoenv.matrix import Level
from grpoenv.matrix_lint import lint

HERE = Path(__file__).parent
GOOD = "class GRPOConfig: pass\nclass GRPOTrainer: pass\n"
LIMITS = Limits(time_s=60, memory_mib=400, disk_mib=50)


def add_stack(depot: Depot, id_: str, code: str = GOOD, version: str = "1.0") -> None:
    """Add a stack whose trl is ``code``."""
    needs = [depot.wheel(name, "1.0") for name in ("torch", "transformers", "datasets")]
    trl = depot.wheel("trl", version, files={"trl/__init__.py": code})
    depot.stack(id_, [trl, *needs])


def tasks(depot: Depot, *ids: str, upto: Level = Level.IMPORTED) -> list[CellTask]:
    return cell_tasks(depot.matrix(), depot.data, ids, upto=upto, limits=LIMITS)


def run_one(depot: Depot, tmp_path: Path, id_: str, **changes: object) -> CellResult:
    (task,) = tasks(depot, id_)
    return run_cell(replace(task, **changes), tmp_path / "cell", tmp_path / "log")


def test_a_cell_is_linked_and_imported_and_leaves_nothing_but_its_log(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one")
    result = run_one(depot, tmp_path, "one")
    assert result.level is Level.IMPORTED
    assert result.failures == ()
    assert result.notes[Level.IMPORTED] == "trl.GRPOConfig, trl.GRPOTrainer"
    assert list(result.seconds) == ["venv", "install", "link", "import"]
    assert not (tmp_path / "cell").exists()
    assert result.log == sha256(tmp_path / "log")


def test_a_failed_import_is_told_with_its_exception_and_the_two_packages(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one", "from transformers import missing\n")
    result = run_one(depot, tmp_path, "one")
    (linked, imported) = result.failures
    assert (linked.level, linked.step) == (Level.LINKED, "link")
    assert "transformers.missing" in linked.error
    assert (imported.level, imported.step) == (Level.IMPORTED, "import")
    assert imported.error == (
        "ImportError: cannot import name 'missing' from 'transformers' (transformers/__init__.py)"
    )
    assert imported.taker == "trl==1.0"
    assert imported.provider == "transformers==1.0"
    assert imported.symbol == "transformers.missing"


def test_a_package_that_cannot_be_installed_is_told(depot: Depot, tmp_path: Path) -> None:
    add_stack(depot, "one")
    (depot.wheels / "trl-1.0-py3-none-any.whl").unlink()
    depot.wheel("trl", "1.0", files={"trl/other.py": ""})
    (failure,) = run_one(depot, tmp_path, "one").failures
    assert failure.step == "install"
    assert "does not have the hash that the lock has" in failure.error


def test_beside_a_cpu_build_of_torch_of_what_cuda_needs_only_triton_is_installed(
    depot: Depot, tmp_path: Path
) -> None:
    build = depot.wheel("torch", "1.0+cpu")
    cpu = CpuBuild(build.version, build.hashes[0], build.size_bytes)
    torch = replace(build, version=Version("1.0"), cpu=cpu)
    triton = replace(depot.wheel("triton", "1.0"), cuda_only=True)
    cublas = replace(depot.wheel("nvidia-cublas", "1.0"), cuda_only=True)
    code = GOOD + "import triton\nfrom importlib.metadata import distributions\n"
    code += "assert 'nvidia-cublas' not in [found.name for found in distributions()]\n"
    depot.stack(
        "one", [torch, triton, cublas, depot.wheel("trl", "1.0", files={"trl/__init__.py": code})]
    )
    result = run_one(depot, tmp_path, "one")
    assert (result.level, result.failures) == (Level.IMPORTED, ())


def test_a_lock_that_was_changed_by_hand_is_refused(depot: Depot, tmp_path: Path) -> None:
    add_stack(depot, "one")
    (task,) = tasks(depot, "one")
    changed = replace(task, lock=task.lock.replace("trl==1.0", "trl==1.1"))
    result = run_cell(changed, tmp_path / "cell", tmp_path / "log")
    assert [(failure.level, failure.step) for failure in result.failures] == [
        (Level.RESOLVED, "lock")
    ]


def test_a_python_that_is_not_here_blocks_the_cell_and_is_no_failure(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one")
    result = run_one(depot, tmp_path, "one", python="3.99")
    assert result.blocked.startswith("there is no Python 3.99")
    assert result.failures == ()


def test_steps_that_train_are_judged(depot: Depot, tmp_path: Path) -> None:
    trains = GOOD + "print()\n"
    add_stack(depot, "one", trains)
    result = run_one(depot, tmp_path, "one", upto="trained")
    assert result.level is Level.IMPORTED  # there is no tokenizer: it cannot train
    (failure,) = result.failures
    assert (failure.level, failure.step) == (Level.TRAINED, "train")
    assert failure.error.startswith("ModuleNotFoundError: No module named")


FILL = "for n in range({}):\n open(str(n), 'ab').write(b'x' * {})\n"
SLEEP = "import time; time.sleep(60)"
MEMORY = f"kept = bytearray(900 * 2**20); {SLEEP}"
HOGS = {
    "memory": (MEMORY, "it took more than 400 MiB of memory"),
    "time": ("while True: pass", "it had not ended after 3 s"),
    "disk": (FILL.format(100, 2**20) + SLEEP, "it wrote more than 50 MiB"),
    "a child's memory": (
        "import subprocess, sys\n"
        + f"subprocess.run([sys.executable, '-c', {MEMORY!r}], start_new_session=True)",
        "it took more than 400 MiB of memory",
    ),
}


def run_code(tmp_path: Path, code: str, limits: Limits = LIMITS) -> LimitedRun:
    (tmp_path / "home").mkdir()
    return run_limited(
        [sys.executable, "-c", code],
        limits=limits,
        folder=tmp_path / "home",
        log=tmp_path / "log",
        variables=os.environ,
    )


@pytest.mark.parametrize("hog", HOGS)
def test_what_takes_too_much_is_killed(tmp_path: Path, hog: str) -> None:
    code, reason = HOGS[hog]
    run = run_code(tmp_path, code, replace(LIMITS, time_s=3) if hog == "time" else LIMITS)
    assert run.stopped == reason
    assert run.status == -signal.SIGKILL


def test_no_file_grows_beyond_the_limit_however_fast_it_is_written(tmp_path: Path) -> None:
    run = run_code(tmp_path, FILL.format(1, 80 * 2**20))
    assert (run.status, run.stopped) == (1, "")
    assert (tmp_path / "log").read_text().endswith("OSError: [Errno 27] File too large\n")
    assert (tmp_path / "home" / "0").stat().st_size == 50 * 2**20


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (MEMORY, "it took more than 400 MiB of memory"),
        ("import os\nos.kill(os.getpid(), 11)", "ended by signal 11"),
    ],
)
def test_a_cell_whose_import_is_killed_says_why(
    depot: Depot, tmp_path: Path, code: str, reason: str
) -> None:
    add_stack(depot, "one", code)
    failure = run_one(depot, tmp_path, "one").failures[-1]
    assert (failure.level, failure.step, failure.error) == (Level.IMPORTED, "import", reason)


def test_children_that_left_their_session_are_killed_too(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = run_code(tmp_path, script, Limits(time_s=1.5))
    assert run.stopped == "it had not ended after 1.5 s"
    pid = int((tmp_path / "log").read_text().split()[0])
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Counting:
    """An engine that gives made-up results and counts the cells that it was given."""

    def __init__(self) -> None:
        self.ran = list[str]()

    def run(self, tasks: Sequence[CellTask]) -> Iterator[CellResult]:
        for task in tasks:
            self.ran.append(task.stack)
            yield made_up(task)


def made_up(task: CellTask, **changes: object) -> CellResult:
    result = CellResult(
        key=task.key,
        stack=task.stack,
        python=task.python,
        platform=task.platform,
        sha256=task.sha256,
        machine="a test",
        date="2026-11-26",
        notes={Level.LINKED: "3 needs hold", Level.IMPORTED: "trl"},
        seconds={"import": 2.4},
        memory_mib=12,
        log="0" * 64,
    )
    return replace(result, **changes)  # type: ignore[arg-type]


def test_a_campaign_runs_only_what_its_journal_lacks(depot: Depot, tmp_path: Path) -> None:
    for id_ in ("one", "two", "three"):
        add_stack(depot, id_)
    engine = Counting()
    run_campaign(tmp_path / "c", tasks(depot, "one"), engine, lambda result: None)
    told = list[str]()
    everything = tasks(depot, "one", "two", "three")
    results = run_campaign(tmp_path / "c", everything, engine, lambda r: told.append(r.stack))
    assert engine.ran == ["one", "two", "three"]
    assert told == ["two", "three"]
    assert [result.stack for result in results] == ["one", "two", "three"]


def test_a_result_that_comes_twice_is_counted_once(depot: Depot, tmp_path: Path) -> None:
    add_stack(depot, "one")
    (task,) = tasks(depot, "one")
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.add(made_up(task))
    assert not journal.add(made_up(task, memory_mib=99))
    assert Journal(tmp_path / "journal.jsonl").results == {task.key: made_up(task)}


def test_a_cell_that_the_machine_could_not_run_is_run_when_it_can(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one")
    (task,) = tasks(depot, "one")
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(made_up(task, notes={}, blocked="there is no Python 3.99"))
    engine = Counting()
    (tmp_path / "c").mkdir()
    (tmp_path / "journal.jsonl").rename(tmp_path / "c" / "journal.jsonl")
    (result,) = run_campaign(tmp_path / "c", [task], engine, lambda result: None)
    assert engine.ran == ["one"]
    assert result == made_up(task)
    assert Journal(tmp_path / "c" / "journal.jsonl").results == {task.key: made_up(task)}


def test_a_half_written_line_is_cut_off_and_its_cell_runs_again(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one")
    add_stack(depot, "two")
    path = tmp_path / "journal.jsonl"
    one, two = tasks(depot, "one", "two")
    journal = Journal(path)
    journal.add(made_up(one))
    whole = path.read_bytes()
    journal.add(made_up(two))
    for end in range(len(whole), path.stat().st_size - 1, 40):
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(path.read_bytes()[:end])
        assert list(Journal(cut).results) == [one.key]
        assert cut.read_bytes() == whole


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"schema": 2}\n')
    with pytest.raises(InputError, match="is no result of a cell: is not of schema 1"):
        Journal(tmp_path / "journal.jsonl")


def test_two_processes_cannot_run_one_campaign(depot: Depot, tmp_path: Path) -> None:
    add_stack(depot, "one")

    class Nested(Counting):
        def run(self, tasks: Sequence[CellTask]) -> Iterator[CellResult]:
            code = (
                "import sys; from pathlib import Path; from grpoenv.campaign.campaign import "
                "run_campaign; run_campaign(Path(sys.argv[1]), [], None, print)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, tmp_path / "c"], capture_output=True, text=True
            )
            assert "another process runs the campaign" in done.stderr
            return super().run(tasks)

    run_campaign(tmp_path / "c", tasks(depot, "one"), Nested(), lambda result: None)


def test_a_killed_campaign_goes_on_and_loses_no_cell(depot: Depot, tmp_path: Path) -> None:
    slow = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    add_stack(depot, "quick")
    add_stack(depot, "slow", slow, version="2.0")
    folder = tmp_path / "campaign"
    command = [sys.executable, "-m", "grpoenv", "matrix", "test", "quick", "slow", "--json"]
    command += ["--matrix", str(depot.data.matrix), "--campaign", str(folder)]
    command += ["--level", "imported", "--time-limit", "5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: any("importing" in log.read_text() for log in folder.glob("logs/slow*")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len((folder / "journal.jsonl").read_text().splitlines()) == 1
    assert list((folder / "cells").iterdir())  # what it left behind
    done = subprocess.run(command, capture_output=True, text=True)
    results = {row["stack"]: row for row in json.loads(done.stdout)["results"]}
    assert results["quick"]["notes"].keys() == {"linked", "imported"}
    assert results["slow"]["failures"][-1]["error"] == "it had not ended after 5 s"
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [row["stack"] for row in journal] == ["quick", "slow"]
    assert not list((folder / "cells").iterdir())


def wait_for(condition: object, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_the_local_pool_runs_cells_side_by_side(depot: Depot, tmp_path: Path) -> None:
    for number in range(2):
        add_stack(depot, f"s{number}", GOOD + "import time\ntime.sleep(1)\n", version=f"{number}")
    pool = LocalPool(tmp_path / "c", workers=2)
    results = run_campaign(tmp_path / "c", tasks(depot, "s0", "s1"), pool, lambda result: None)
    assert [result.level for result in results] == [Level.IMPORTED] * 2, results
    assert len(list((tmp_path / "c" / "logs").iterdir())) == 2


def test_evidence_is_recorded_once_however_often_it_is_written(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one")
    (task,) = tasks(depot, "one")
    record(depot.data, [made_up(task)])
    once = depot.data.matrix.read_text()
    record(depot.data, [made_up(task)])
    assert depot.data.matrix.read_text() == once
    (target,) = depot.matrix().stacks[0].targets
    assert [str(row.level) for row in target.evidence] == ["resolved", "linked", "imported"]
    row = target.evidence[-1]
    assert (row.command, row.seconds, row.memory_mib) == ("grpoenv matrix test one", 2, 12)
    assert lint(depot.matrix(), depot.data.locks) == []


def test_a_failure_takes_the_place_of_evidence_and_becomes_a_break(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one")
    (task,) = tasks(depot, "one")
    record(depot.data, [made_up(task)])
    add_code = "from transformers import missing\n"
    (depot.wheels / "trl-1.0-py3-none-any.whl").unlink()
    broken = Depot(depot.root)
    add_stack_again(broken, add_code)
    result = run_cell(tasks(broken, "one")[0], tmp_path / "cell", tmp_path / "log")
    record(broken.data, [result])
    matrix = broken.matrix()
    (target,) = matrix.stacks[0].targets
    assert [str(row.level) for row in target.evidence] == ["resolved"]
    assert [(str(row.level), row.step) for row in target.failures] == [
        ("linked", "link"),
        ("imported", "import"),
    ]
    (break_,) = matrix.breaks
    assert break_.id == "trl-1.0-transformers-1.0"
    assert {name: str(spec) for name, spec in break_.when.items()} == {
        "trl": "==1.0",
        "transformers": "==1.0",
    }
    assert break_.symbol == "transformers.missing"
    record(broken.data, [result])
    assert broken.matrix().breaks == matrix.breaks


def add_stack_again(depot: Depot, code: str) -> None:
    """Put another trl 1.0 in the place of the one that the stack has."""
    (depot.data.locks / "one" / "lock.txt").unlink()
    (depot.data.locks / "one").rmdir()
    add_stack(depot, "one", code)


def test_what_nothing_declares_is_added_locked_and_run_again(
    depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_stack(depot, "one", GOOD + "import psutil\n")
    depot.wheel("psutil", "7.0")
    locked = list[str]()

    def lock_with_it(data: object, ids: Sequence[str]) -> None:
        locked.extend(ids)
        row = depot.stacks[-1]
        addition = row[row.index("[stack.versions]") :]
        assert addition
        pins = [depot.wheel(n, "1.0") for n in ("torch", "transformers", "datasets")]
        trl = depot.wheel("trl", "1.0", files={"trl/__init__.py": GOOD + "import psutil\n"})
        text = depot.data.matrix.read_text()
        lock = depot.data.locks / "one" / "lock.txt"
        before = sha256(lock)
        from grpoenv.lockfile import render_lock

        lock.write_text(render_lock([trl, *pins, depot.wheel("psutil", "7.0")]))
        depot.data.matrix.write_text(text.replace(before, sha256(lock)))

    monkeypatch.setattr("grpoenv.campaign.command.lock_stacks", lock_with_it)
    wanted = Wanted(("one",), upto=Level.IMPORTED, limits=LIMITS, record=True)
    folder = tmp_path / "c"
    tested = run_stacks(depot.data, wanted, folder, LocalPool(folder), lambda result: None)
    assert locked == ["one"]
    assert [result.level for result in tested.results] == [Level.IMPORTED]
    (stack,) = depot.matrix().stacks
    assert [(row.package, row.reason) for row in stack.additions] == [
        ("psutil", "trl 1.0 imports psutil and does not declare it")
    ]
    assert str(stack.targets[0].level) == "imported"
    assert len(Journal(folder / "journal.jsonl").results) == 2


def test_a_run_is_held_against_the_matrix(depot: Depot, tmp_path: Path) -> None:
    add_stack(depot, "one")
    (task,) = tasks(depot, "one")
    good = made_up(task)
    assert list(differences(depot.matrix(), [good])) == []  # more than the matrix claims
    record(depot.data, [good])
    assert list(differences(depot.matrix(), [good])) == []
    less = made_up(task, notes={Level.LINKED: "3 needs hold"})
    assert list(differences(depot.matrix(), [less])) == [
        f"one, Python {PYTHON}: imported in the matrix, linked now: no reason is known"
    ]


def test_a_version_changed_by_hand_is_caught_by_lint_and_by_the_run(
    depot: Depot, tmp_path: Path
) -> None:
    add_stack(depot, "one")
    text = depot.data.matrix.read_text()
    depot.data.matrix.write_text(text.replace('"trl" = "1.0"', '"trl" = "1.1"'))
    assert [
        str(error).partition(": stack")[2] for error in lint(depot.matrix(), depot.data.locks)
    ] == [f" one, Python {PYTHON}: versions.trl is 1.1, and the lock has 1.0"]
    depot.data.matrix.write_text(text)
    lock = depot.data.locks / "one" / "lock.txt"
    lock.write_text(lock.read_text().replace("trl==1.0", "trl==1.1"))
    wanted = Wanted(("one",), upto=Level.IMPORTED, limits=LIMITS)
    tested = run_stacks(
        depot.data, wanted, tmp_path / "c", LocalPool(tmp_path / "c"), lambda result: None
    )
    assert [failure.step for failure in tested.results[0].failures] == ["lock"]


def test_only_targets_of_this_machine_are_cells(depot: Depot) -> None:
    add_stack(depot, "one")
    text = depot.data.matrix.read_text()
    depot.data.matrix.write_text(text.replace("x86_64-manylinux_2_17", "riscv64-manylinux_2_39"))
    assert tasks(depot, "one") == []


def test_an_unknown_stack_is_named(depot: Depot) -> None:
    add_stack(depot, "one")
    with pytest.raises(InputError, match="has no stack 'two'"):
        tasks(depot, "two")
