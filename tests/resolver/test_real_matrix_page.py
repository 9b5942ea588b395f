"""The page of the matrix in a real browser: what keys, pointer and search do, in both themes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.utils import NormalizedName

from browser import CHROMIUM, SHIFT, Tab, browser
from grpoenv._data import data_paths, pairs_path
from grpoenv.matrix import Matrix
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_page import page_text
from grpoenv.matrix_page.content import page_content
from grpoenv.pair_verdicts import read_classification
from grpoenv.releases import Outcome, Release

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]
PAIRS = read_classification(pairs_path())
NEWEST = f"unsloth {PAIRS.unsloth[-1].version} with zoo {PAIRS.zoos[-1].version}"
SEED_PAIR = "#pairs/2025.3.15/2025.3.9"
KEY_ERROR = "KeyError: unsloth_zoo.rl_replacements.RL_REPLACEMENTS['grpo_compute_loss_slow']"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def started(folder: Path) -> Iterator[Tab]:
    with browser(folder / "profile") as tab:
        yield tab


@pytest.fixture
def tab(started: Tab, folder: Path) -> Iterator[Tab]:
    """Return a tab in which the page is open; afterwards it has complained of nothing."""
    show(started, folder / "page.html", load_matrix(data_paths().matrix))
    yield started
    assert started.requests == [(folder / "page.html").as_uri()]
    assert started.complaints == []


def show(tab: Tab, path: Path, matrix: Matrix, scanned: Sequence[Release] = ()) -> None:
    content = page_content(matrix, PAIRS, scanned)
    path.write_text(page_text(content), "utf-8")
    tab.call("Emulation.setEmulatedMedia", features=[scheme("light")])
    tab.open("about:blank")
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(path.as_uri())
    tab.run("localStorage.clear()")


def scheme(theme: str) -> dict[str, str]:
    return {"name": "prefers-color-scheme", "value": theme}


def go(tab: Tab, address: str) -> None:
    tab.run(f"location.hash = '{address}'")
    tab.wait(f"!document.getElementById('view-{address[1:].partition('/')[0]}').hidden")


def search(tab: Tab, text: str) -> None:
    tab.press("/")
    assert tab.run("document.activeElement.id") == "search"
    tab.run("document.activeElement.select()")
    tab.write(text)


def shown(tab: Tab, element: str) -> str:
    return str(tab.run(f"document.getElementById('{element}').innerText"))


def rows(tab: Tab) -> list[str]:
    return list(
        tab.run("[...document.querySelectorAll('#stack-rows .opener')].map(b => b.innerText)")
    )


def counts(tab: Tab) -> list[str]:
    return list(tab.run("[...document.querySelectorAll('[role=tab] b')].map(b => b.innerText)"))


def test_the_address_opens_a_pair_and_the_card_has_its_reason(tab: Tab) -> None:
    go(tab, SEED_PAIR)
    card = shown(tab, "pair")
    assert "unsloth 2025.3.15 with zoo 2025.3.9" in card
    assert KEY_ERROR in card
    assert "unsloth/models/rl_replacements.py:237" in card
    assert "unsloth takes unsloth_zoo>=2025.3.13; the zoo names no unsloth: not admitted" in card


def test_keys_move_over_the_map_and_show_each_reason(tab: Tab) -> None:
    go(tab, SEED_PAIR)
    tab.run("document.getElementById('map').focus()")
    for key, modifiers, pair in [
        ("ArrowLeft", 0, "2025.3.14 with zoo 2025.3.9"),
        ("ArrowUp", 0, "2025.3.14 with zoo 2025.3.11"),
        ("ArrowDown", 0, "2025.3.14 with zoo 2025.3.9"),
        ("n", 0, "2025.3.14 with zoo 2025.3.11"),
        ("ArrowRight", SHIFT, "2025.4.5 with zoo 2025.3.11"),
        ("Home", 0, "2025.2.2 with zoo 2025.3.11"),
        ("ArrowLeft", 0, "2025.2.2 with zoo 2025.3.11"),
    ]:
        tab.press(key, modifiers)
        assert f"unsloth {pair}" in shown(tab, "pair"), key
    assert tab.run("location.hash") == "#pairs/2025.2.2/2025.3.11"
    assert tab.run("document.getElementById('pair').ariaLive") == "polite"


def test_the_pointer_shows_the_pair_below_it_and_a_click_chooses_it(tab: Tab) -> None:
    go(tab, SEED_PAIR)
    left, top, width = tab.run(
        "(({left, top, width}) => [left, top, width])"
        "(document.getElementById('map').getBoundingClientRect())"
    )
    tab.mouse(left + width - 2, top + 2)
    assert NEWEST in shown(tab, "pair")
    tab.mouse(left + width - 2, top - 20)
    assert "unsloth 2025.3.15 with zoo 2025.3.9" in shown(tab, "pair")
    tab.mouse(left + width - 2, top + 2, click=True)
    tab.mouse(left + width - 2, top - 20)
    assert NEWEST in shown(tab, "pair")


def test_search_narrows_every_view_and_says_how_much_is_left(tab: Tab) -> None:
    everything = counts(tab)
    search(tab, "grpo_compute_loss_slow")
    assert "0" not in counts(tab)[1:]
    assert all(now != before for now, before in zip(counts(tab), everything, strict=True))
    assert "pairs" in shown(tab, "status")
    search(tab, "kaggle-2026-06")
    assert rows(tab) == ["kaggle-2026-06"]
    search(tab, " ")
    assert counts(tab) == everything


def test_filters_and_columns_order_the_stacks(tab: Tab) -> None:
    tab.run("document.getElementById('images').click()")
    images = {stack.id for stack in load_matrix(data_paths().matrix).stacks if stack.image}
    assert set(rows(tab)) == images
    tab.run("document.querySelector('#stack-head button').click()")
    assert rows(tab) == sorted(images)
    tab.run("document.querySelector('#stack-head button').click()")
    assert rows(tab) == sorted(images, reverse=True)
    assert tab.run("document.querySelector('#stack-head th').ariaSort") == "descending"


def test_a_row_opens_by_keyboard_and_shows_its_evidence(tab: Tab) -> None:
    tab.run("document.querySelector('.opener').focus()")
    tab.press("Enter")
    assert tab.run("document.activeElement.ariaExpanded") == "true"
    assert "grpoenv matrix lock" in shown(tab, "stack-rows")
    tab.press("Enter")
    assert "grpoenv matrix lock" not in shown(tab, "stack-rows")


def test_a_first_failure_can_be_picked_out_of_the_map(tab: Tab) -> None:
    go(tab, "#pairs")
    everything = counts(tab)
    tab.run("document.querySelector('#reasons .pick').click()")
    count = tab.run("document.querySelector('#reasons .pick .count').innerText")
    assert counts(tab)[1] == count
    tab.run("document.querySelector('#reasons .pick').click()")
    assert counts(tab) == everything


def test_keys_walk_along_a_time_line_and_tell_what_broke(tab: Tab) -> None:
    go(tab, "#timelines")
    tab.run("document.querySelector('#lines svg').focus()")
    assert f"unsloth {PAIRS.unsloth[-1].version}\n" in shown(tab, "release")
    tab.press("Home")
    assert "unsloth 2025.2.2\n" in shown(tab, "release")
    assert f" of {len(PAIRS.zoos)} releases of zoo that the declared ranges admit fail" in shown(
        tab, "release"
    )
    assert "ImportError: unsloth.DEVICE_TYPE" in shown(tab, "release")
    tab.press("ArrowRight")
    assert "unsloth 2025.2.3\n" in shown(tab, "release")


def test_a_time_line_tells_what_a_release_gave_on_its_day_and_gives_today(
    started: Tab, folder: Path
) -> None:
    day = Outcome("2025-02-03", {"trl": "0.14.0"}, "linked")
    today = Outcome("2026-11-26", {}, "import", "ImportError", "torch.x", "unsloth 2025.2.2", "a:1")
    scanned = Release(NormalizedName("unsloth"), "2025.2.2", "2025-02-03", True, day, (), today)
    show(started, folder / "scanned.html", load_matrix(data_paths().matrix), [scanned])
    go(started, "#timelines")
    started.run("document.querySelector('#lines svg').focus()")
    started.press("Home")
    assert shown(started, "release").split("\n")[:7] == [
        "unsloth 2025.2.2",
        "uploaded",
        "2025-02-03, yanked",
        "as of its day, 2025-02-03",
        "linked: nothing is missing; with trl 0.14.0",
        "today, 2026-11-26",
        "importing fails: ImportError: torch.x (unsloth 2025.2.2, a:1)",
    ]
    search(started, "torch.x")
    assert counts(started)[2] == "1"
    assert started.complaints == []


def test_the_theme_is_the_systems_until_another_is_asked_for(tab: Tab) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.run(paper)
    tab.call("Emulation.setEmulatedMedia", features=[scheme("dark")])
    tab.wait(f"{paper} !== '{light}'")
    for theme in ("light", "dark", "auto"):
        tab.run("document.getElementById('theme').click()")
        assert tab.run("document.getElementById('theme').ariaLabel") == f"Theme: {theme}"
        assert (tab.run(paper) == light) is (theme == "light")


def test_the_tabs_are_walked_with_the_arrows(tab: Tab) -> None:
    tab.run("document.getElementById('tab-stacks').focus()")
    tab.press("ArrowRight")
    tab.wait("document.activeElement.id === 'tab-pairs'")
    assert tab.run("document.activeElement.ariaSelected") == "true"
    tab.wait("!document.getElementById('view-pairs').hidden")


def test_whatever_takes_the_focus_has_a_name_for_a_screen_reader(tab: Tab) -> None:
    for view in ("#stacks", "#pairs", "#timelines", "#breaks"):
        go(tab, view)
        nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
        focusable = [
            node
            for node in nodes
            if any(one["name"] == "focusable" for one in node.get("properties", []))
        ]
        nameless = [node for node in focusable if not node.get("name", {}).get("value")]
        assert [node["role"]["value"] for node in nameless] == []
        assert len(focusable) > 5


def test_all_pairs_are_painted_while_one_types(tab: Tab) -> None:
    go(tab, "#pairs")
    tab.run("document.getElementById('search').value = 'rl_replacements'")
    seconds = tab.run(
        "(() => { const start = performance.now();"
        " document.getElementById('search').dispatchEvent(new Event('input'));"
        " return (performance.now() - start) / 1000; })()"
    )
    assert seconds < 1  # 0.05 s on a quiet machine


def test_hostile_text_is_shown_and_does_nothing(started: Tab, folder: Path) -> None:
    matrix = load_matrix(data_paths().matrix)
    text = "</script><img src=x onerror='window.hacked = 1'><b>bold"
    stack = replace(matrix.stacks[0], summary=text)
    break_ = replace(matrix.breaks[0], summary=text, reference="javascript:window.hacked=1")
    hostile = replace(matrix, stacks=(stack,), breaks=(break_,))
    show(started, folder / "hostile.html", hostile)
    started.run("document.querySelector('.opener').click()")
    assert text in shown(started, "stack-rows")
    go(started, "#breaks")
    assert text in shown(started, "break-rows")
    assert started.run("document.querySelectorAll('#break-rows a').length") == 0
    assert started.run("typeof window.hacked") == "undefined"
    assert started.requests == [(folder / "hostile.html").as_uri()]
