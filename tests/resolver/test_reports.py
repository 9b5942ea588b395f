"""A verdict in each of its formats, and the remedies that ``--fix`` may run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from depot import make_probe
from grpoenv.checks import CHECKS, Finding, Severity
from grpoenv.errors import OperationError
from grpoenv.fix import Fixes, plan_fixes, run_fixes
from grpoenv.redaction import redacted
from grpoenv.report_github import github_text
from grpoenv.report_html import html_text
from grpoenv.report_junit import junit_text
from grpoenv.report_sarif import sarif_text
from grpoenv.report_verdict import verdict_json, verdict_text
from grpoenv.verify import Verdict
from grpoenv.verify_command import FORMATS

INSTALL = "grpoenv install --stack trl-1.16"
CONFLICT = Finding(
    Severity.PROBLEM,
    "torch 2.13.0",
    "torchaudio 2.8.0 needs torch==2.8.0",
    "Requires-Dist of torchaudio 2.8.0",
    "requirements",
    INSTALL,
    ("torchaudio 2.8.0", "torch 2.13.0"),
)
SCRIPT = Finding(
    Severity.PROBLEM,
    "train.py:2",
    "imports trl: 100% too early,\nreally",
    "train.py:2",
    "script",
    "move 'import unsloth' to the top of train.py",
    file=Path("src/train.py"),
    line=2,
)
UNKNOWN = Finding(Severity.UNDETERMINED, "torch 2.13.0", "no <driver> \x1b", "NVML", "driver")
WARNING = Finding(Severity.WARNING, "xformers", "unused", "cpp_lib.json", "abi", "unset X")
NOTE = Finding(Severity.NOTE, "triton", "not looked at", "NVML", "toolchain")
VERDICT = Verdict(
    (CONFLICT, SCRIPT, UNKNOWN, WARNING, NOTE),
    "",
    {"requirements": 0.25, "script": 0.5, "driver": 0.0, "abi": 0.0, "toolchain": 0.0},
)
SOUND = Verdict((), "trl-1.16", {"files": 0.1})


def test_the_table_puts_the_culprit_first_then_the_chain_the_evidence_and_the_remedy() -> None:
    assert verdict_text(VERDICT) == (
        "torch 2.13.0\n"
        "  problem       torchaudio 2.8.0 needs torch==2.8.0\n"
        "  chain         torchaudio 2.8.0 → torch 2.13.0\n"
        "  evidence      Requires-Dist of torchaudio 2.8.0\n"
        "  undetermined  no <driver> \x1b\n"
        "  evidence      NVML\n"
        "train.py:2\n"
        "  problem       imports trl: 100% too early,\n                really\n"
        "  evidence      train.py:2\n"
        "xformers\n"
        "  warning       unused\n"
        "  evidence      cpp_lib.json\n"
        "  remedy        unset X\n"
        "1 note: grpoenv verify --notes\n"
        f"mend it: {INSTALL}\n"
        "mend it: move 'import unsloth' to the top of train.py\n"
        "unsound: 2 problems"
    )


def test_notes_are_shown_where_asked_for() -> None:
    assert "triton\n  note          not looked at\n" in verdict_text(VERDICT, notes=True)


def test_a_sound_verdict_names_its_checks() -> None:
    assert verdict_text(SOUND) == "sound as stack trl-1.16: files"


def test_the_json_has_the_fields_that_are_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8")
    sections = dict(re.findall(r"## `(\w+)`\n(.*?)(?=\n## |\Z)", documented, re.DOTALL))
    names = {
        title: set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|(.*?)\|", text, re.MULTILINE))))
        for title, text in sections.items()
    }
    value = verdict_json(VERDICT)
    assert set(value) == names["verdict"]
    assert all(set(finding) == names["findings"] for finding in value["findings"])
    assert json.loads(json.dumps(value)) == value


def test_github_commands_are_escaped_one_line_each() -> None:
    lines = github_text(VERDICT).split("\n")
    assert [line.split(" ")[0] for line in lines] == [
        "::error",
        "::error",
        "::error",
        "::warning",
        "::notice",
        "unsound:",
    ]
    assert lines[1] == (
        "::error title=grpoenv%3A train.py%3A2,file=src/train.py,line=2::imports trl: 100%25 too "
        "early,%0Areally%0Aevidence: train.py:2%0Amend it: move 'import unsloth' to the top of "
        "train.py"
    )


def test_the_sarif_log_keeps_to_the_standard() -> None:
    log = json.loads(sarif_text(VERDICT))
    assert (log["version"], set(log)) == ("2.1.0", {"$schema", "version", "runs"})
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [check.name for check in CHECKS]
    for result in run["results"]:
        assert set(result) <= {"ruleId", "kind", "level", "message", "locations", "properties"}
        assert result["ruleId"] in rules
        assert result["kind"] == "fail" or result["level"] == "none"  # section 3.27.10
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert set(location) <= {"physicalLocation", "logicalLocations"}
    physical = run["results"][1]["locations"][0]["physicalLocation"]
    assert physical == {
        "artifactLocation": {"uri": "src/train.py"},
        "region": {"startLine": 2},
    }


def test_the_junit_document_has_a_case_for_each_check() -> None:
    suite = ElementTree.fromstring(junit_text(VERDICT))[0]
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {
        "tests": str(len(CHECKS)),
        "failures": "2",
        "errors": "1",
        "skipped": str(len(CHECKS) - 5),
        "time": "0.750",
    }
    failure = suite.find("testcase[@name='requirements']/failure")
    assert failure is not None
    assert failure.get("message") == "torch 2.13.0: torchaudio 2.8.0 needs torch==2.8.0"
    error = suite.find("testcase[@name='driver']/error")
    assert error is not None
    assert error.get("message") == "torch 2.13.0: no <driver> \N{REPLACEMENT CHARACTER}"


class Page(HTMLParser):
    """The text of a page, and every attribute that could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.loads, self.tags = "", [""], set[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [f"{name}" for name, _ in attrs if name in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_all_and_loads_nothing() -> None:
    page = Page(html_text(VERDICT, make_probe({"torch": "2.13.0"}), Path("/home/ann")))
    assert page.loads == [""]
    assert not page.tags & {"script", "link", "img", "iframe"}
    for text in ("unsound: 2 problems", "no <driver>", INSTALL, "torchaudio 2.8.0 → torch 2.13.0"):
        assert text in page.text
    assert "url(" not in html_text(SOUND, make_probe(), Path("/"))


def test_the_page_holds_no_home_folder_and_no_secrets() -> None:
    token = "hf_" + "a" * 30
    secret = Finding(
        Severity.PROBLEM,
        "/home/ann/run",
        f"https://ann:pw@host.invalid/x {token}",
        "/home/ann/lib and /home/anna/lib",
    )
    page = html_text(Verdict((secret,), ""), make_probe(), Path("/home/ann"))
    assert "ann:pw" not in page
    assert token not in page
    assert "~/lib and /home/anna/lib" in page
    assert "/home/ann/" not in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/root/x /rooted", "~/x /rooted"),
        ("git+https://u:p@h/x", "git+https://h/x"),
        ("ghp_" + "A1" * 18, "[token]"),
        ("task_sk-", "task_sk-"),
        ("hf_transfer 0.1.9", "hf_transfer 0.1.9"),
    ],
)
def test_what_is_private_is_taken_out(text: str, shown: str) -> None:
    assert redacted(text, Path("/root")) == shown


def test_installs_and_stale_caches_are_run_and_all_else_is_left_to_the_user() -> None:
    remedies = [
        "grpoenv install --stack trl",
        "rm -r '/a b/unsloth_compiled_cache'",
        "rm -r /a/important",
        "apt-get install gcc",
        "grpoenv matrix show",
        "move 'import unsloth",
    ]
    verdict = Verdict(tuple(Finding(Severity.PROBLEM, "x", "y", "z", "", r) for r in remedies), "")
    assert plan_fixes(verdict, "grpoenv") == Fixes(
        (
            ("grpoenv", "install", "--stack", "trl"),
            ("rm", "-r", "/a b/unsloth_compiled_cache"),
        ),
        tuple(remedies[2:]),
    )


def test_a_stale_cache_is_removed(tmp_path: Path) -> None:
    cache = tmp_path / "unsloth_compiled_cache"
    (cache / "x").mkdir(parents=True)
    fixes = Fixes((("rm", "-r", str(cache)),), ())
    run_fixes(fixes, "grpoenv")
    assert not cache.exists()
    with pytest.raises(OperationError, match="cannot be removed: No such file or directory"):
        run_fixes(fixes, "grpoenv")


def verify(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "grpoenv", "verify", *words],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_the_command_line_writes_every_format(tmp_path: Path, format_: str) -> None:
    script = tmp_path / "train.py"
    script.write_text("import trl\nimport unsloth\n")
    done = verify(tmp_path, "train.py", "--format", format_, "--html", "report.html")
    assert done.returncode == 1, done.stderr
    assert "imports trl before unsloth" in done.stdout.replace("\n", " ")
    assert "imports trl before unsloth" in (tmp_path / "report.html").read_text("utf-8")
    if format_ in ("json", "sarif"):
        json.loads(done.stdout)


def test_without_a_terminal_nothing_is_mended_unasked(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import trl\nimport unsloth\n")
    done = verify(tmp_path, "train.py", "--fix", "--format", "github")
    assert done.returncode == 1
    assert "to do by hand: move 'import unsloth' to the top of train.py" in done.stderr
    assert done.stdout.startswith("::error ")
