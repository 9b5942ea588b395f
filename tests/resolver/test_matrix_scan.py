"""``grpoenv matrix scan`` on an index of our own, on which releases appear one after the other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import NormalizedName

from depot import Depot
from grpoenv.cli import main
from grpoenv.matrix import Matrix
from grpoenv.matrix_file import load_matrix
from grpoenv.releases import Outcome, Release, Releases, read_releases, releases_text
from grpoenv.releases_lint import lint_releases
from grpoenv.scan.breaks import new_breaks
from resolver.wheels.wheel_server import WheelServer, serving

PYTHON = f"3.{sys.version_info.minor}"
KEY = 'RL_REPLACEMENTS["grpo_loss"]'
UNSLOTH = {"unsloth/__init__.py": f"from unsloth_zoo.rl_replacements import *\nA = {KEY}\n"}
FITTING = {"unsloth_zoo/rl_replacements.py": "RL_REPLACEMENTS = {'grpo_loss': 1}\n"}
BROKEN = {"unsloth_zoo/rl_replacements.py": "RL_REPLACEMENTS = {}\n"}


@pytest.fixture
def server(depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelServer]:
    """An index with an unsloth whose zoo fits on its day (1.0), and does not today (2.0)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    depot.stack("trl-1.0", [depot.wheel("trl", "1.0")])
    depot.wheel("unsloth", "2025.3.1", files=UNSLOTH, requires=["unsloth_zoo>=1.0"])
    depot.wheel("unsloth_zoo", "1.0", files=FITTING)
    depot.wheel("unsloth_zoo", "2.0", files=BROKEN)
    empty = Releases(PYTHON, "x86_64-manylinux_2_28", "2026-11-26")
    depot.data.releases.write_text(releases_text(empty))
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with serving(depot.wheels) as server:
        server.uploaded = {
            "trl-1.0": "2026-01-01T10:00:00Z",
            "unsloth-2025.3.1": "2025-03-01T10:00:00.123456789Z",
            "unsloth_zoo-1.0": "2025-02-28T10:00:00Z",
            "unsloth_zoo-2.0": "2025-03-02T00:00:01Z",
        }
        monkeypatch.setenv("UV_DEFAULT_INDEX", server.index)
        yield server


def scan(depot: Depot, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    matrix = str(depot.data.matrix)
    assert main(["matrix", "scan", "--json", "--matrix", matrix, *words]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_release_is_recorded_as_of_its_day_and_as_of_today(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scan(depot, capsys, "--write")["changed"] == 2
    unsloth, trl = read_releases(depot.data.releases).rows
    assert (unsloth.package, unsloth.uploaded) == ("unsloth", "2025-03-01")
    assert unsloth.day is not None and unsloth.today is not None
    assert unsloth.day.verdict == "linked"
    assert unsloth.day.versions == {"unsloth": "2025.3.1", "unsloth-zoo": "1.0"}
    assert unsloth.today.verdict == "import"
    assert unsloth.today.failure == (
        "KeyError: unsloth_zoo.rl_replacements.RL_REPLACEMENTS['grpo_loss'] "
        "(unsloth 2025.3.1 with unsloth-zoo 2.0)"
    )
    assert unsloth.today.at == "unsloth-2025.3.1-py3-none-any.whl/unsloth/__init__.py:2"
    assert trl.today is not None and trl.today.verdict == "linked"


@pytest.mark.parametrize(("requires", "verdict"), [([], "import"), (["requests"], "linked")])
def test_a_set_lacks_what_its_releases_import_and_no_range_brings(
    depot: Depot,
    server: WheelServer,
    capsys: pytest.CaptureFixture[str],
    requires: list[str],
    verdict: str,
) -> None:
    depot.wheel("trl", "1.1", files={"trl/__init__.py": "import requests\n"}, requires=requires)
    depot.wheel("requests", "2.32.5")
    server.uploaded |= {
        "trl-1.1": "2026-11-20T10:00:00Z",
        "requests-2.32.5": "2025-01-01T10:00:00Z",
    }
    scan(depot, capsys, "--write")
    (row,) = (r for r in read_releases(depot.data.releases).rows if r.version == "1.1")
    assert row.today is not None and row.today.verdict == verdict


def test_a_zoo_is_looked_at_beside_the_unsloth_that_takes_it(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    depot.wheel("unsloth_zoo", "2025.3.2", files=BROKEN)
    server.uploaded["unsloth_zoo-2025.3.2"] = "2025-03-02T10:00:00Z"
    scan(depot, capsys, "--write")
    (zoo,) = read_releases(depot.data.releases).of("unsloth-zoo")
    assert zoo.day is not None and zoo.day.verdict == "import"
    assert zoo.day.versions == {"unsloth": "2025.3.1", "unsloth-zoo": "2025.3.2"}
    assert zoo.unusable.startswith("KeyError: unsloth_zoo.rl_replacements.RL_REPLACEMENTS")
    main(["matrix", "scan", "--report", "--matrix", str(depot.data.matrix)])
    line = "1 releases of unsloth-zoo, each pinned alone: unsloth-zoo==X unsloth\n  today: 1 of 1"
    assert line in capsys.readouterr().out


def test_a_second_scan_changes_nothing_and_reads_no_wheel(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scan(depot, capsys, "--write")
    before, server.requests[:] = depot.data.releases.read_bytes(), []
    assert scan(depot, capsys, "--write") == {
        "schema": 1,
        "verb": "matrix scan",
        "exit": 0,
        "changed": 0,
        "breaks": [],
        "written": False,
    }
    assert depot.data.releases.read_bytes() == before
    assert server.file_requests() == []


def test_without_write_the_change_is_printed_and_not_made(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = depot.data.releases.read_bytes()
    assert main(["matrix", "scan", "--matrix", str(depot.data.matrix)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == ["--- compat-releases.jsonl", "+++ compat-releases.jsonl", "@@ -1,0 +2,2 @@"]
    assert out[3].startswith('+{"package":"unsloth","version":"2025.3.1"')
    assert "+++ compat-matrix.toml" in out
    assert '+unsloth-zoo = "==2.0"' in out
    assert out[-1] == "2 of 2 releases changed, 1 breaks are new"
    assert depot.data.releases.read_bytes() == before
    assert not load_matrix(depot.data.matrix).breaks


def test_a_new_release_leaves_the_others_as_they_are(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scan(depot, capsys, "--write")
    before = read_releases(depot.data.releases)
    depot.wheel("trl", "1.1")
    server.uploaded["trl-1.1"] = "2026-11-26T10:00:00Z"
    assert scan(depot, capsys, "--write")["changed"] == 1
    after = read_releases(depot.data.releases)
    assert after.rows[:2] == before.rows
    assert after.rows[2].day == after.rows[2].today


def test_what_does_not_fit_becomes_a_break_of_the_matrix(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scan(depot, capsys, "--write")["breaks"] == ["unsloth-rl-replacements-grpo-loss"]
    (found,) = load_matrix(depot.data.matrix).breaks
    assert found.kind == "missing-key"
    assert {name: str(range_) for name, range_ in found.when.items()} == {
        "unsloth": "==2025.3.1",
        "unsloth-zoo": "==2.0",
    }
    (evidence,) = found.evidence
    assert evidence.command == "grpoenv matrix scan"
    at = "unsloth-2025.3.1-py3-none-any.whl/unsloth/__init__.py:2"
    assert evidence.note == f"told from the sources of 1 set of a scan, not executed; {at}"


def outcome(verdict: str, unsloth: str, zoo: str, symbol: str = "unsloth_zoo.a") -> Outcome:
    return Outcome(
        "2026-01-01",
        {"unsloth": unsloth, "unsloth-zoo": zoo},
        verdict,
        exception="" if verdict == "linked" else "ImportError",
        symbol="" if verdict == "linked" else symbol,
        culprit="" if verdict == "linked" else f"unsloth {unsloth} with unsloth-zoo {zoo}",
        at="unsloth/x.py:1",
    )


@pytest.mark.parametrize(
    ("sets", "ranges"),
    [
        (["1 7 import", "3 9 import"], [(">=1,<=3", ">=7,<=9")]),
        (["1 7 import", "2 8 import", "3 7 import"], [(">=1,<=3", ">=7,<=8")]),
        (["1 7 import", "2 8 linked", "3 9 import"], [("==1", "==7"), ("==3", "==9")]),
        (["1 7 import", "2 7 linked", "3 7 import"], [("==1", "==7"), ("==3", "==7")]),
        (["1 7 import", "4 8 linked", "2 8 conflict"], [("==1", "==7")]),
        (["1 7 linked"], []),
    ],
)
def test_a_break_reaches_as_far_as_no_set_links(
    sets: list[str], ranges: list[tuple[str, str]]
) -> None:
    rows = [
        Release(NormalizedName("unsloth"), unsloth, "2026-01-01", day=outcome(how, unsloth, zoo))
        for unsloth, zoo, how in map(str.split, sets)
    ]
    releases = Releases(PYTHON, "x86_64-manylinux_2_28", "2026-01-02", tuple(rows))
    found = new_breaks(releases, Matrix(Path("m"), (), ()), "a machine")
    assert sorted((row["when"]["unsloth"], row["when"]["unsloth-zoo"]) for row in found) == ranges
    assert len({row["id"] for row in found}) == len(found)


def test_a_release_that_no_day_mends_borrows_what_the_nearest_row_requires(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.uploaded["unsloth_zoo-2.0"] = "2025-02-28T11:00:00Z"
    pins = [depot.wheel("unsloth", "2025.3.1", files=UNSLOTH, requires=["unsloth_zoo>=1.0"])]
    requires = ["unsloth==2025.3.1", "unsloth_zoo < 2"]
    depot.stack("unsloth-near", pins, runtime="unsloth", requires=requires)
    scan(depot, capsys, "--write")
    unsloth = read_releases(depot.data.releases).rows[0]
    assert [(one.as_of, one.also, one.verdict) for one in unsloth.tried] == [
        ("2025-03-04", "", "import"),
        ("2025-03-15", "", "import"),
        ("2025-04-15", "", "import"),
        ("2025-03-01", "unsloth_zoo<2", "linked"),
    ]
    assert unsloth.row is unsloth.tried[-1]
    assert lint_releases(read_releases(depot.data.releases), depot.data.releases) == []
    before = depot.data.releases.read_bytes()
    assert scan(depot, capsys, "--write")["changed"] == 0
    assert depot.data.releases.read_bytes() == before


def test_the_report_counts_what_is_broken_and_what_rotted(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scan(depot, capsys, "--write")
    server.requests.clear()
    assert main(["matrix", "scan", "--report", "--matrix", str(depot.data.matrix)]) == 0
    out = capsys.readouterr().out
    assert "1 releases of unsloth, each pinned alone: unsloth==X\n  today: 1 of 1 broken" in out
    assert "  1 were whole on their day and are broken today" in out
    assert "a locked stack for 0, a set that links for 1, a reason for 0" in out
    assert server.requests == []


def test_an_index_that_tells_no_times_is_named(
    depot: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.uploaded = {}
    assert main(["matrix", "scan", "--matrix", str(depot.data.matrix)]) == 3
    assert "tells no upload time of its files" in capsys.readouterr().err
