"""Probing: hosts, GPUs, interpreters, and probes that are saved and given back."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from depot import make_probe
from grpoenv import gpu
from grpoenv._data import data_paths
from grpoenv.errors import InputError
from grpoenv.gpu import Answer, Gpu, GpuDevice, find_gpu
from grpoenv.host import find_host
from grpoenv.machine import probe_machine, wheel_folders
from grpoenv.probe import (
    probe_from_freeze,
    probe_from_json,
    probe_to_json,
    read_freeze,
    read_probe,
)


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, "plain"),
        ({"COLAB_RELEASE_TAG": "release-colab_1"}, "colab"),
        ({"COLAB_RELEASE_TAG": "x", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "kaggle"),
        ({"COLAB_RELEASE_TAG": "x", "KAGGLE_URL_BASE": "k"}, "kaggle"),
        ({"COLAB_RELEASE_TAG": "x", "VERTEX_PRODUCT": "COLAB_ENTERPRISE"}, "vertex"),
        ({"VERTEX_PRODUCT": "WORKBENCH"}, "plain"),
    ],
)
def test_hosts_are_told_apart_in_order(
    environment: dict[str, str], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    assert find_host(environment, root=tmp_path).kind == kind


def test_kaggle_by_its_address_alone_needs_its_input_folder(tmp_path: Path) -> None:
    environment = {"COLAB_RELEASE_TAG": "x", "KAGGLE_URL_BASE": "k"}
    assert find_host(environment, root=tmp_path).kind == "colab"


def test_no_driver_means_no_gpu(tmp_path: Path) -> None:
    found = find_gpu(signs=(str(tmp_path / "nvidiactl"),))
    assert (found.answer, found.reason) == (Answer.NO, "no NVIDIA driver is loaded")


def asked(monkeypatch: pytest.MonkeyPatch, script: str, timeout_s: float = 20) -> Gpu:
    """Find the GPU with a child that runs ``script`` in the place of NVML's."""
    ask = gpu._ask_nvml
    monkeypatch.setattr(gpu, "_ask_nvml", lambda _, t: ask([sys.executable, "-c", script], t))
    return find_gpu(timeout_s=timeout_s, signs=("/",))


def test_a_driver_that_hangs_is_unknown_and_costs_no_more_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = time.monotonic()
    found = asked(monkeypatch, "import time; time.sleep(60)", timeout_s=0.3)
    assert found.answer is Answer.UNKNOWN
    assert found.reason == "the NVIDIA driver did not answer within 0.3 s"
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('print(\'{"error": "Driver/library version mismatch"}\')', "NVML: Driver/library"),
        ("raise SystemExit(9)", "asking NVML failed with exit status 9"),
        ("print('no json')", "asking NVML failed"),
    ],
)
def test_a_driver_that_fails_is_unknown_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    found = asked(monkeypatch, script)
    assert found.answer is Answer.UNKNOWN
    assert found.reason.startswith(reason)


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "driver": "580.82.07",
        "cuda": 12080,
        "devices": [{"name": "Tesla T4", "capability": [7, 5], "memory_mib": 15360}],
    }
    found = asked(monkeypatch, f"print({json.dumps(answer)!r})")
    assert found.answer is Answer.YES
    assert (found.driver, found.cuda) == ("580.82.07", (12, 8))
    assert found.devices == (GpuDevice("Tesla T4", (7, 5), 15360),)


def test_a_real_nvml_without_a_driver_is_unknown_not_an_error() -> None:
    assert find_gpu(signs=("/",)).answer in (Answer.UNKNOWN, Answer.YES)


def test_this_machine_is_probed_and_the_probe_survives_saving(tmp_path: Path) -> None:
    probe = probe_machine()
    assert probe.packages["packaging"] >= Version("24")
    assert probe.interpreter.executable == sys.executable
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(probe_to_json(probe)))
    assert read_probe(path) == probe


def test_a_gpu_survives_saving() -> None:
    device = GpuDevice("NVIDIA H200", (9, 0), 143771)
    card = Gpu(Answer.YES, "NVML lists 1", "580.95.05", (13, 0), (device,))
    probe = make_probe({"torch": "2.6.0+cu124"}, gpu=card)
    saved = json.loads(json.dumps(probe_to_json(probe)))
    assert probe_from_json(saved, path=Path("x")) == probe


def test_another_interpreter_is_probed_by_its_path(venv: Path) -> None:
    probe = probe_machine(venv)
    assert probe.packages == {}
    assert Path(probe.interpreter.prefix) == venv.parent.parent


@pytest.mark.parametrize("kind", ["missing", "no program", "another program"])
def test_a_target_that_is_no_interpreter_is_refused(tmp_path: Path, kind: str) -> None:
    python = tmp_path / "python"
    if kind == "no program":
        python.write_text("hello")
    elif kind == "another program":
        python = Path("/bin/true")
    with pytest.raises(InputError, match="is no Python interpreter") as caught:
        probe_machine(python)
    assert caught.value.remedy == "give --python the path of a CPython 3.10 or newer"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "is no saved probe of schema 1"),
        ('{"schema": 1}', "gpu: is missing"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_file_that_is_no_probe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "probe.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_probe(path)
    assert words in caught.value.message


def test_a_probe_with_a_field_too_many_is_refused() -> None:
    saved = {**probe_to_json(make_probe()), "cpu": "x"}
    with pytest.raises(InputError, match="is no saved probe"):
        probe_from_json(saved, path=Path("x"))


def test_a_package_list_keeps_local_versions() -> None:
    freeze = read_freeze(data_paths().locks / "images" / "colab-2025-04.txt")
    assert freeze["torch"] == Version("2.6.0+cu124")


def test_a_package_list_with_an_address_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "freeze.txt"
    path.write_text("# python: 3.12.1\nnumpy==2.0.2\ntorch @ file:///torch.whl\n")
    with pytest.raises(InputError) as caught:
        read_freeze(path)
    assert caught.value.line == 3


def test_an_image_is_probed_from_its_package_list() -> None:
    path = data_paths().locks / "images" / "colab-2026-08.txt"
    probe = probe_from_freeze(path, host="colab", gpu=Gpu(Answer.UNKNOWN, ""))
    assert probe.interpreter.minor == "3.13"
    assert "cp313-cp313-manylinux_2_28_x86_64" in {str(tag) for tag in probe.tags()}


def test_wheel_folders_are_those_that_are_there(tmp_path: Path) -> None:
    environment = {
        "UV_FIND_LINKS": f"{tmp_path},https://example.org/wheels",
        "PIP_FIND_LINKS": f"file://{tmp_path} /does/not/exist",
    }
    assert wheel_folders(environment) == [tmp_path]


def test_a_probe_of_a_live_kernel_names_what_it_has_loaded() -> None:
    probe = replace(make_probe(), loaded=("numpy",))  # type: ignore[arg-type]
    saved = json.loads(json.dumps(probe_to_json(probe)))
    assert probe_from_json(saved, path=Path("x")).loaded == ("numpy",)
