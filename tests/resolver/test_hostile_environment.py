"""What files can do to ``verify``: each ends as a finding with a reason, or changes nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpoenv._data import data_paths
from grpoenv.checks import Finding, Severity, Use
from grpoenv.matrix import Matrix
from grpoenv.report_github import github_text
from grpoenv.report_html import html_text
from grpoenv.report_junit import junit_text
from grpoenv.report_sarif import sarif_text
from grpoenv.report_verdict import verdict_text
from grpoenv.verify import Verdict, verify
from grpoenv.visible import visible
from site_packages import Site

USER = {"unsloth/__init__.py": "from unsloth_zoo.sub import name\n"}


@pytest.fixture
def pair(site: Site) -> Site:
    """An unsloth that takes a name from a module of its zoo, which is to be spoilt."""
    zoo = {"unsloth_zoo/sub.py": "name = 1\n"}
    return site.put("unsloth", "1", files=USER).put("unsloth-zoo", "1", files=zoo)


def module(pair: Site) -> Path:
    return pair.folder / "unsloth_zoo" / "sub.py"


def linked(pair: Site) -> list[Finding]:
    return [f for f in pair.findings("linkage") if f.severity is not Severity.NOTE]


def undetermined(pair: Site, reason: str) -> None:
    (finding,) = linked(pair)
    assert (finding.severity, finding.culprit) == (Severity.UNDETERMINED, "unsloth_zoo.sub")
    assert reason in finding.evidence


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"name = (\n", "'(' was never closed"),
        (b"name = 1\0\n", "null bytes"),
        (b"name = '\xe9'\n", "cannot be parsed"),
        (b"# -*- coding: no-such-codec -*-\nname = 1\n", "unknown encoding"),
        (b"# -*- coding: hex -*-\nname = 1\n", "cannot be parsed"),
        ("name = 1\n".encode("utf-16"), "cannot be parsed"),
        (b"name = " + b"(" * 50_000, "cannot be parsed"),
        (b"name = " + b"[" * 150 + b"]" * 150 + b"\n" + b"-" * 100_000 + b"1\n", "be parsed"),
    ],
    ids=["open", "nul", "latin-1", "codec", "no-text", "utf-16", "nested", "signs"],
)
def test_a_source_that_python_cannot_read_leaves_the_answer_open(
    pair: Site, source: bytes, reason: str
) -> None:
    module(pair).write_bytes(source)
    undetermined(pair, reason)


@pytest.mark.parametrize(
    "source",
    [
        b"\xef\xbb\xbfname = 1\n",
        b"# -*- coding: latin-1 -*-\nother = '\xe9'\nname = 1\n",
        "# -*- coding: cp1251 -*-\nимя = 1\nname = 1\n".encode("cp1251"),
        b"name = 1\r\nother = 2\r\n",
        b"name = 1\x0c\n\x0cother = 2",
    ],
    ids=["mark", "latin-1", "cyrillic", "crlf", "form-feed"],
)
def test_a_source_in_another_encoding_is_read_as_python_reads_it(pair: Site, source: bytes) -> None:
    module(pair).write_bytes(source)
    assert linked(pair) == []


def test_a_check_that_runs_out_of_depth_leaves_the_answer_open(
    pair: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bottomless(*_: object, **__: object) -> None:
        bottomless()

    monkeypatch.setattr("grpoenv.linker.link", bottomless)
    (finding,) = linked(pair)
    assert finding.severity is Severity.UNDETERMINED
    assert finding.message.startswith("could not end: RecursionError")


def test_a_module_of_ten_megabytes_is_read_and_one_beyond_the_limit_is_named(pair: Site) -> None:
    module(pair).write_text(f"text = '''{'x' * 10_000_000}'''\nname = 1\n")
    assert linked(pair) == []
    module(pair).write_text("#" * (16 * 1024 * 1024 + 1))
    undetermined(pair, "more than 16,777,216")


def test_a_link_out_of_the_folder_is_followed_as_python_follows_it(
    pair: Site, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("name = 1\n")
    module(pair).unlink()
    module(pair).symlink_to(outside)
    assert linked(pair) == []
    outside.write_text("")
    (finding,) = linked(pair)
    assert finding.severity is Severity.PROBLEM


def test_a_link_that_leads_to_itself_leaves_the_answer_open(pair: Site) -> None:
    module(pair).unlink()
    module(pair).symlink_to("sub.py")
    undetermined(pair, "cannot be read")
    assert [f.severity for f in pair.findings("files")] == [Severity.PROBLEM]


@pytest.fixture
def in_time() -> Iterator[None]:
    """End the test where something waits for ever."""
    timer = threading.Timer(20, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.cancel()


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_leaves_the_answer_open(pair: Site, kind: str) -> None:
    module(pair).unlink()
    if kind == "pipe":
        os.mkfifo(module(pair))
    elif kind == "folder":
        module(pair).mkdir()
    else:
        module(pair).symlink_to("/dev/zero")
    undetermined(pair, "cannot be read")


@pytest.mark.parametrize(
    "row",
    [b"\xff\xfe.py,,\n", b"a\0b.py,,1\n", b"../../../../etc/passwd,,1\n", b"x" * 200_000 + b",,\n"],
    ids=["not-utf-8", "nul", "outside", "long"],
)
def test_a_record_of_anything_gives_an_outcome(pair: Site, row: bytes) -> None:
    record = pair.folder / "unsloth_zoo-1.dist-info" / "RECORD"
    record.write_bytes(record.read_bytes() + row)
    found = pair.findings("files")
    assert found
    assert {f.severity for f in found} <= {Severity.PROBLEM, Severity.UNDETERMINED}


HOSTILE = "\x1b[2J\x1b]0;title\x07\r\u202e\u2066\ud800\u0085\u2028x"


def verdict_of(site: Site) -> Verdict:
    return verify(site.probe(), Matrix(Path("none")), data_paths(), use=Use(variables={}))


def test_hostile_names_reach_no_report(pair: Site) -> None:
    info = pair.folder / "unsloth_zoo-1.dist-info"
    with (info / "RECORD").open("a") as record:
        record.write('"unsloth_zoo/\x1b[2J\u202e\nsound as stack trl",,5\n')
    (pair.folder / "evil\x1b[31m\u202e-1.0.dist-info").mkdir()
    verdict = verdict_of(pair)
    assert verdict.problems
    text = verdict_text(verdict, notes=True)
    page = html_text(verdict, pair.probe(), Path("/home/nobody"))
    for report in (text, page, github_text(verdict), junit_text(verdict), sarif_text(verdict)):
        assert not set(report) & set("\x1b\u202e\r")
    assert not any(line.startswith("sound") for line in text.splitlines())


@given(st.text())
def test_what_is_visible_can_be_encoded_and_moves_no_cursor(text: str) -> None:
    shown = visible(text)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert not set(shown) & set("\x1b\x07\r\u202e\u2066\ud800\x85\u2028")
    assert visible(shown) == shown


def test_a_finding_shows_what_it_hides() -> None:
    finding = Finding(Severity.PROBLEM, HOSTILE, HOSTILE, HOSTILE, chain=(HOSTILE,)).shown()
    assert finding.culprit == ("\\x1b[2J\\x1b]0;title\\x07\\r\\u202e\\u2066\\ud800\\x85\\u2028x")
    assert {finding.message, finding.evidence, *finding.chain} == {finding.culprit}
