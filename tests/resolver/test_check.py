"""``grpoenv check`` on small wheels: in a folder, and on an index of our own."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from depot import Depot
from grpoenv.cli import main
from resolver.wheels import wheel_server as faults
from resolver.wheels.wheel_server import WheelServer, serving

PYTHON = ".".join(map(str, sys.version_info[:3]))
KEY = 'RL_REPLACEMENTS["grpo_loss"]'
UNSLOTH = {"unsloth/__init__.py": f"from unsloth_zoo.rl_replacements import *\nA = {KEY}\n"}
FITTING = {"unsloth_zoo/rl_replacements.py": "RL_REPLACEMENTS = {'grpo_loss': 1}\n"}
BROKEN = {"unsloth_zoo/rl_replacements.py": "RL_REPLACEMENTS = {}\n"}


@pytest.fixture
def stocked(depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depot:
    """A stack of trl, and of unsloth with a zoo that fits it (2.0) and one that does not (1.0)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    depot.stack("trl-1.0", [depot.wheel("trl", "1.0")])
    depot.wheel("unsloth", "1.0", files=UNSLOTH, requires=["unsloth_zoo>=1.0", "torch>=2"])
    depot.wheel("unsloth_zoo", "1.0", files=BROKEN)
    depot.wheel("unsloth_zoo", "2.0", files=FITTING)
    depot.wheel("torch", "2.11.0", files={"torch/version.py": "cuda = '13.0'\n"})
    depot.wheel("torch", "2.12.0", files={"torch/version.py": "cuda = '13.0'\n"})
    return depot


@pytest.fixture
def server(stocked: Depot, monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelServer]:
    """The same wheels on an index."""
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with serving(stocked.wheels) as server:
        monkeypatch.setenv("UV_DEFAULT_INDEX", server.index)
        yield server


Answer = dict[str, Any]


def check(depot: Depot, capsys: pytest.CaptureFixture[str], *words: str, code: int) -> Answer:
    assert main(["check", *words, "--json", "--matrix", str(depot.data.matrix)]) == code
    answer: Answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["verb"], answer["exit"]) == (1, "check", code)
    return answer


def findings(answer: Answer, severity: str) -> list[Answer]:
    return [row for row in answer["verdict"]["findings"] if row["severity"] == severity]


def versions(answer: Answer) -> dict[str, str]:
    return {row["name"]: row["version"] for row in answer["packages"]}


def image(tmp_path: Path, *lines: str) -> list[str]:
    path = tmp_path / "colab-test.txt"
    path.write_text("\n".join([f"# python: {PYTHON}", *lines, ""]))
    return ["--freeze", str(path)]


def test_a_set_that_fits_is_sound(stocked: Depot, capsys: pytest.CaptureFixture[str]) -> None:
    answer = check(stocked, capsys, "unsloth", code=0)
    assert versions(answer) == {"torch": "2.12.0", "unsloth": "1.0", "unsloth-zoo": "2.0"}
    assert answer["verdict"]["sound"]
    assert answer["target"]["python"] == PYTHON
    assert answer["packages"][1]["wheel"] == "unsloth-1.0-py3-none-any.whl"


def test_a_pair_that_breaks_names_the_key_and_the_place(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = check(stocked, capsys, "unsloth==1.0", "unsloth_zoo==1.0", "--no-deps", code=1)
    (problem,) = findings(answer, "problem")
    assert problem["culprit"] == "unsloth 1.0 with unsloth-zoo 1.0"
    assert "grpo_loss" in problem["message"]
    assert "unsloth-1.0-py3-none-any.whl/unsloth/__init__.py:2" in problem["evidence"]
    assert problem["remedy"].endswith("install --stack trl")
    assert versions(answer) == {"unsloth": "1.0", "unsloth-zoo": "1.0"}


def test_of_a_pair_only_what_is_between_the_two_is_asked(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.wheel("peft", "1.0", requires=["trl>=2", "torch>=2"])
    answer = check(stocked, capsys, "peft", "trl", "--no-deps", code=1)
    (problem,) = findings(answer, "problem")
    assert (problem["culprit"], problem["message"]) == ("trl 1.0", "peft 1.0 needs trl>=2")


def test_no_set_at_all_is_a_problem_with_uvs_reason(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = check(stocked, capsys, "unsloth", "torch<2", code=1)
    (problem,) = findings(answer, "problem")
    assert (problem["check"], problem["culprit"]) == ("resolution", "unsloth torch<2")
    assert problem["message"] == "no set of versions meets all requirements"
    assert "all versions of unsloth depend on torch>=2" in problem["evidence"]
    assert answer["packages"] is None


def test_a_file_of_requirements_is_read_as_uv_reads_it(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("unsloth\nunsloth_zoo<2  # the old one\n")
    answer = check(stocked, capsys, "-r", str(file), code=1)
    assert versions(answer)["unsloth-zoo"] == "1.0"


def test_an_image_keeps_what_it_has_and_its_own_build_of_torch(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["absl-py==1.4.0", "nvidia-cublas-cu12==12.8", "torch==2.11.0+cu128", "trl==1.0"]
    answer = check(stocked, capsys, "unsloth", *image(tmp_path, *lines), code=0)
    assert versions(answer) == {
        "absl-py": "1.4.0",
        "nvidia-cublas-cu12": "12.8",
        "torch": "2.11.0+cu128",
        "trl": "1.0",
        "unsloth": "1.0",
        "unsloth-zoo": "2.0",
    }
    rows = {row["name"]: row for row in answer["packages"]}
    assert rows["trl"] == {
        "name": "trl",
        "version": "1.0",
        "image": "1.0",
        "wheel": "trl-1.0-py3-none-any.whl",
    }
    assert rows["absl-py"]["wheel"] is None
    assert answer["target"]["image"] == "colab-test"


def test_an_image_changes_where_a_requirement_moves_it(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.wheel("unsloth", "2.0", files=UNSLOTH, requires=["unsloth_zoo", "torch>=2.12"])
    words = ["check", "unsloth==2.0", *image(tmp_path, "torch==2.11.0+cu128", "unsloth-zoo==1.0")]
    assert main([*words, "--matrix", str(stocked.data.matrix)]) == 1
    text = capsys.readouterr().out
    assert "  ~ torch 2.11.0+cu128 → 2.12.0\n  + unsloth 2.0\n" in text
    assert "unsloth 2.0 with unsloth-zoo 1.0" in text


def test_an_image_alone_can_be_checked(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = check(stocked, capsys, *image(tmp_path, "unsloth==1.0", "unsloth-zoo==1.0"), code=1)
    culprits = {row["culprit"] for row in findings(answer, "problem")}
    assert culprits == {"unsloth 1.0", "unsloth 1.0 with unsloth-zoo 1.0"}


def test_what_only_the_image_has_is_noted(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = check(stocked, capsys, *image(tmp_path, "torch==2.11.0", "triton==9.9"), code=0)
    notes = [row for row in findings(answer, "note") if row["check"] == "resolution"]
    assert [row["culprit"] for row in notes] == ["triton 9.9"]
    assert notes[0]["message"] == "is the image's own, and its sources are not on the index"


@pytest.mark.parametrize(
    ("torch", "driver", "code"),
    [("2.11.0+cu128", "550.54", 0), ("2.11.0", "550.54", 1), ("2.11.0+cpu", "580.1", 1)],
)
def test_the_driver_is_held_against_the_images_own_build(
    stocked: Depot,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    torch: str,
    driver: str,
    code: int,
) -> None:
    words = [*image(tmp_path, f"torch=={torch}"), "--driver", driver]
    answer = check(stocked, capsys, *words, code=code)
    assert [row["check"] for row in findings(answer, "problem")] == ["driver"] * code


@pytest.mark.parametrize(
    ("torch", "pin", "code"),
    [
        ("2.11.0+cu128", "==2.11.0", 1),
        ("2.11.0+cu130", "==2.11.0", 0),
        ("2.11.0+cu128", ">=2.11.0", 0),
    ],
)
def test_what_is_pinned_to_a_torch_is_built_for_the_cuda_of_the_indexs_own(
    stocked: Depot,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    torch: str,
    pin: str,
    code: int,
) -> None:
    stocked.wheel("vllm", "0.23.0", requires=[f"torch{pin}"])
    answer = check(stocked, capsys, *image(tmp_path, f"torch=={torch}"), "vllm", code=code)
    found = [row for row in findings(answer, "problem") if row["check"] == "abi"]
    assert [row["culprit"] for row in found] == ["vllm 0.23.0"] * code
    for row in found:
        assert "was built for CUDA 13, and torch 2.11.0+cu128 for CUDA 12.8" in row["message"]


def test_without_a_driver_the_question_is_not_asked(
    stocked: Depot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = check(stocked, capsys, *image(tmp_path, "torch==2.11.0"), code=0)
    (note,) = (row for row in findings(answer, "note") if row["check"] == "driver")
    assert note["message"] == "not held against a driver: none was named: --gpu, --driver"
    assert "driver" not in answer["verdict"]["checks"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to check"),
        (["foo bar"], "'foo bar' is no requirement: "),
        (["trl\n-r /etc/passwd"], "'trl\\n-r /etc/passwd' is no requirement"),
        (["-r", "no-such-file.txt"], "no-such-file.txt: is no file"),
        (["--freeze", "no-such-file.txt"], "no-such-file.txt: cannot be read"),
        (["trl", "--exclude-newer", "yesterweek"], "uv does not understand the requirements:"),
        (["trl", "--gpu", "Voodoo2"], "--gpu 'Voodoo2' is not known here"),
    ],
)
def test_what_is_no_question_is_wrong_usage(
    stocked: Depot, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    answer = check(stocked, capsys, *words, code=2)
    assert answer["error"]["message"].startswith(message)


def test_from_an_index_files_are_read_out_of_wheels_and_kept(
    stocked: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unsloth", "unsloth_zoo==1.0"]
    first = check(stocked, capsys, *words, code=1)
    ours = [path for path, _, headers in server.requests if headers["User-Agent"] == "grpoenv"]
    assert sorted(ours) == [
        f"/files/{name}-py3-none-any.whl"
        for name in ("torch-2.12.0", "unsloth-1.0", "unsloth_zoo-1.0")
    ]
    server.requests.clear()
    second = check(stocked, capsys, *words, code=1)
    assert second["verdict"]["findings"] == first["verdict"]["findings"]
    assert second["packages"] == first["packages"]
    assert not any(headers["User-Agent"] == "grpoenv" for _, _, headers in server.requests)


def test_an_index_that_tells_no_sizes_serves_as_well(
    stocked: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.tells_size = False
    assert versions(check(stocked, capsys, "unsloth", "unsloth_zoo==1.0", code=1))
    ranges = {
        range_ for _, range_, headers in server.requests if headers["User-Agent"] == "grpoenv"
    }
    assert ranges == {"bytes=-73728"}


def test_a_wheel_that_cannot_be_read_leaves_the_answer_open(
    stocked: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(request: faults.Request) -> bool:
        ours = request.headers["User-Agent"] == "grpoenv" and "zoo" in request.path
        return ours and faults.status(404)(request)

    server.faults.append(gone)
    answer = check(stocked, capsys, "unsloth", code=3)
    (open_question,) = findings(answer, "undetermined")
    assert open_question["culprit"] == "unsloth-zoo 2.0"
    assert open_question["message"].startswith("cannot be looked into: http://127.0.0.1")
    assert open_question["message"].endswith("the server answered 404")


def test_an_index_that_is_not_there_leaves_the_answer_open(
    stocked: Depot,
    server: WheelServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:secret@127.0.0.1:9/simple")
    answer = check(stocked, capsys, "unsloth", code=3)
    assert answer["error"]["message"].startswith("the package index could not be reached:\n")
    assert "secret" not in json.dumps(answer)
    assert answer["error"]["remedy"]


def publish_sources(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


SOURCEFUL = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: sourceful\nVersion: 1.0\nRequires-Dist: torch<2\n",
    "sourceful/__init__.py": "from unsloth_zoo import gone\nfrom sourceful import _C\n",
}


def test_what_is_published_as_sources_alone_is_looked_into_and_nothing_of_it_is_run(
    stocked: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {**SOURCEFUL, "setup.py": f"open({str(stocked.root / 'ran')!r}, 'w')"}
    publish_sources(stocked.wheels, "sourceful", "1.0", runs)
    words = ["sourceful", "unsloth_zoo", "torch", "--no-deps"]
    answer = check(stocked, capsys, *words, code=1)
    assert [(row["culprit"], row["check"]) for row in findings(answer, "problem")] == [
        ("sourceful 1.0 with unsloth-zoo 2.0", "linkage"),
        ("torch 2.12.0", "requirements"),
    ]
    note = "is published as sources alone: its modules are looked into, and not what a build adds"
    assert note in [row["message"] for row in findings(answer, "note")]
    assert not (stocked.root / "ran").exists()
    asked = [path for path, _, _ in server.requests if path.endswith("sourceful-1.0.tar.gz")]
    check(stocked, capsys, *words, code=1)
    again = [path for path, _, _ in server.requests if path.endswith("sourceful-1.0.tar.gz")]
    assert again == asked


def test_sources_that_are_others_than_the_index_says_are_not_believed(
    stocked: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(request: faults.Request) -> bool:
        if request.path.endswith(".tar.gz"):
            request.reply(200, b"x" * len(request.content))
        return request.path.endswith(".tar.gz")

    publish_sources(stocked.wheels, "sourceful", "1.0", SOURCEFUL)
    server.faults.append(other)
    answer = check(stocked, capsys, "sourceful", "--no-deps", code=3)
    assert answer["error"]["message"].startswith("what has no wheels cannot be looked into:\n")


def test_sources_go_before_the_wheel_of_a_pre_release(
    stocked: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.wheel("sourceful", "0.9.dev1")
    publish_sources(stocked.wheels, "sourceful", "1.0", SOURCEFUL)
    chosen = versions(check(stocked, capsys, "sourceful", "--no-deps", code=0))
    assert chosen == {"sourceful": "1.0"}
    chosen = versions(check(stocked, capsys, "sourceful==0.9.dev1", "--no-deps", code=0))
    assert chosen == {"sourceful": "0.9.dev1"}


def test_sources_are_as_old_as_the_day_that_is_asked_about(
    stocked: Depot, server: WheelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.uploaded = {
        "sourceful-1.0": "2025-03-01T10:00:00Z",
        "sourceful-1.1": "2025-03-05T10:00:00Z",
    }
    for version in ("1.0", "1.1"):
        publish_sources(stocked.wheels, "sourceful", version, SOURCEFUL)
    for day, version in (("2025-03-04", "1.0"), ("2025-03-05", "1.1")):
        words = ["sourceful", "--no-deps", "--exclude-newer", day]
        assert versions(check(stocked, capsys, *words, code=0)) == {"sourceful": version}
    words = ["sourceful", "--no-deps", "--exclude-newer", "2025-02-01"]
    (problem,) = findings(check(stocked, capsys, *words, code=1), "problem")
    assert problem["check"] == "resolution"


def test_what_is_named_is_followed_whoever_it_is(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.wheel("gradual", "1.0", files={"gradual/__init__.py": "import unsloth_zoo.gone\n"})
    stocked.wheel("leader", "1.0", requires=["gradual", "unsloth_zoo"])
    answer = check(stocked, capsys, "gradual", "unsloth_zoo", "--no-deps", code=1)
    (problem,) = findings(answer, "problem")
    assert problem["culprit"] == "gradual 1.0 with unsloth-zoo 2.0"
    check(stocked, capsys, "leader", code=0)


def test_what_has_only_a_source_distribution_leaves_the_answer_open(
    stocked: Depot, capsys: pytest.CaptureFixture[str]
) -> None:
    (stocked.wheels / "sourceful-1.0.tar.gz").write_bytes(b"")
    answer = check(stocked, capsys, "sourceful", code=3)
    assert answer["error"]["message"].startswith("what has no wheels cannot be looked into:\n")
