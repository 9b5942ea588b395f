"""The page of the matrix as a file: whole, well-formed, closed to the outside, safe from its data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from packaging.utils import NormalizedName

from depot import Depot
from grpoenv._data import data_paths, pairs_path
from grpoenv.cli import main
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_page import page_text
from grpoenv.matrix_page.content import page_content
from grpoenv.pair_verdicts import read_classification
from grpoenv.releases import Outcome, Release
from grpoenv.report_matrix import matrix_json

ROOT = Path(__file__).parents[2]
VOID = {"meta", "input", "link", "br"}
LOADS = {"src", "href", "action", "data", "srcset", "poster", "background", "formaction"}


class Page(HTMLParser):
    """The elements of a page, and the text of those whose text is no prose."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.raw: dict[str, str] = {}
        self._place = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name in ("aria-controls", "aria-labelledby", "aria-describedby", "for"):
            self.references += attributes.get(name, "").split()
        self.loads += [name for name in attributes if name in LOADS]
        self.inline += [name for name in attributes if name.startswith("on") or name == "style"]
        self._place = attributes.get("type", tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._place = ""

    def handle_data(self, data: str) -> None:
        if self._place:
            self.raw[self._place] = self.raw.get(self._place, "") + data

    @property
    def data(self) -> dict[str, object]:
        return dict(json.loads(self.raw["application/json"]))


@pytest.fixture(scope="module")
def text() -> str:
    matrix = load_matrix(data_paths().matrix)
    return page_text(page_content(matrix, read_classification(pairs_path())))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_element_is_closed_and_every_reference_has_its_one_element(page: Page) -> None:
    assert page.open == []
    assert sorted(set(page.ids)) == sorted(page.ids)
    named = re.findall(r"\bfind\(\"([\w-]+)\"\)", page.raw["module"])
    assert len(named) > 20
    assert {*page.references, *named} - set(page.ids) == set()


def test_the_page_has_nothing_to_load_and_may_load_nothing(text: str, page: Page) -> None:
    assert page.loads == []
    assert page.inline == []
    namespace = "http://www.w3.org/2000/svg"  # a name, which is not looked up
    ours = page.raw["style"] + page.raw["module"].replace(namespace, "", 1)
    for word in ("url(", "@import", "fetch(", "XMLHttp", "import(", "innerHTML", "eval(", "//www"):
        assert word not in ours
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', text)
    digests = [hashlib.sha256(page.raw[name].encode()).digest() for name in ("style", "module")]
    style, script = (f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    assert policy == (
        f"default-src 'none'; style-src {style}; script-src {script}; "
        "base-uri 'none'; form-action 'none'"
    )


def test_the_page_has_every_stack_break_and_pair(page: Page) -> None:
    rows = matrix_json(load_matrix(data_paths().matrix))
    assert {name: page.data[name] for name in rows} == rows
    found = read_classification(pairs_path())
    pairs = page.data["pairs"]
    assert isinstance(pairs, dict)
    numbers = [[one for one, count in row for _ in range(count)] for row in pairs["rows"]]
    verdicts = [*pairs["verdicts"], None]  # -1 is the last
    assert [[verdicts[n] for n in row] for row in numbers] == [
        [stop and vars(stop) for stop in map(lambda one, run: one or run, row, runs)]
        for row, runs in zip(found.rows, found.runs, strict=True)
    ]
    assert sum(map(len, numbers)) == len(found.unsloth) * len(found.zoos) > 39_000


def test_the_page_tells_which_pairs_the_declared_ranges_admit(page: Page) -> None:
    pairs = page.data["pairs"]
    assert isinstance(pairs, dict)
    admitted = sum(count for row in pairs["admitted"] for value, count in row if value)
    command = [sys.executable, ROOT / "benchmarks" / "pairs.py", "summary", pairs_path()]
    summary = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{admitted:,} admitted by the declared ranges" in summary


def test_a_time_line_has_the_outcomes_of_each_release_in_its_place(depot: Depot) -> None:
    depot.stack("trl-1.0", [depot.wheel("trl", "1.10")])
    today = Outcome("2026-11-26", {"trl": "1.2"}, "import", "ImportError", "torch.x", "trl 1.2")
    scanned = [Release(NormalizedName("trl"), "1.2", "2026-01-02", False, None, (), today)]
    content = page_content(depot.matrix(), None, scanned)
    (line,) = content["timelines"]
    assert (line["package"], line["releases"]) == ("trl", ["1.2", "1.10"])
    assert line["history"][0]["today"]["symbol"] == "torch.x"
    assert line["history"][1] is None


@pytest.mark.parametrize(
    "hostile",
    [
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "]]>&lt;/script&gt;",
        "\u2028</SCRIPT \u2029>",
    ],
)
def test_no_text_of_the_matrix_can_leave_its_place(depot: Depot, hostile: str) -> None:
    depot.stack("trl-1.0", [depot.wheel("trl", "1.0")])
    depot.stacks[0] = depot.stacks[0].replace('"a stack"', json.dumps(hostile))
    depot.write()
    found = Page(page_text(page_content(depot.matrix(), None)))
    assert found.open == []
    assert set(found.raw) == {"style", "application/json", "module"}
    assert found.data["stacks"][0]["summary"] == hostile  # type: ignore[index]
    assert "<" not in found.raw["application/json"]


def channel(value: int) -> float:
    part = value / 255
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, as WCAG 2 reckons it."""
    lights = []
    for colour in (one, other):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        red, green, blue = (channel(int(digits[n : n + 2], 16)) for n in (0, 2, 4))
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    return max(lights) / min(lights)


@pytest.mark.parametrize("theme", [":root {", ':root[data-theme="dark"] {'])
def test_text_stands_out_from_what_is_behind_it(page: Page, theme: str) -> None:
    rules = page.raw["style"].partition(theme)[2].partition("}")[0]
    colour = dict(re.findall(r"--([\w-]+): (#\w+);", rules))
    levels = ("resolved", "linked", "imported", "trained")
    pairs = [("ink", back) for back in ("paper", "raised", *levels)]
    pairs += [
        ("soft", "paper"),
        ("soft", "raised"),
        ("link", "paper"),
        ("zoo-text", "paper"),
        ("on-gpu", "gpu"),
    ]
    faint = {pair: contrast(*(colour[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < 4.5} == {}


def test_the_verb_writes_the_page_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    assert main(["matrix", "html", "-o", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(path)
    assert Page(path.read_text("utf-8")).open == []
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-o", "/no/such/folder/page.html"], 4, "cannot be written: No such file or directory"),
        (["--pairs", "/no/such/file"], 2, "/no/such/file: cannot be read"),
    ],
)
def test_a_page_that_cannot_be_made_is_told_in_words(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", "html", *words]) == code
    assert message in capsys.readouterr().err
