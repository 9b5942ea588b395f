from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grpoenv.asked_target import UNASKED_GPU, asked_probe, parse_gpu
from grpoenv.errors import InputError
from grpoenv.gpu import Answer, Gpu, GpuDevice
from grpoenv.probe import wheel_tags

FREEZE = Path(__file__).parents[2] / "lockfiles" / "images" / "colab-2026-08.txt"


def test_by_default_it_is_this_machine_with_nothing_installed() -> None:
    probe = asked_probe()
    assert probe.interpreter.executable == sys.executable
    assert probe.packages == {}


def test_an_image_brings_its_python_and_its_packages_and_no_gpu() -> None:
    probe = asked_probe(freeze=FREEZE)
    assert (probe.interpreter.version, probe.host.kind) == ("3.13.15", "colab")
    assert str(probe.packages["torch"]) == "2.11.0+cu128"  # type: ignore[index]
    assert probe.gpu == UNASKED_GPU


def test_another_python_and_platform_bring_their_tags() -> None:
    probe = asked_probe(python_version="3.12", platform="aarch64-manylinux_2_31")
    tags = [str(tag) for tag in probe.tags()]
    assert tags[0] == "cp312-cp312-manylinux_2_31_aarch64"
    assert "cp312-cp312-manylinux2014_aarch64" in tags
    assert "py3-none-any" in tags
    assert "cp312-cp312-manylinux_2_31_x86_64" not in tags
    assert probe.gpu == UNASKED_GPU
    assert wheel_tags("3.12", probe.platform_tags) == probe.tags()


def test_a_patch_version_is_kept_and_a_missing_one_is_the_first() -> None:
    assert asked_probe(python_version="3.12.4").interpreter.version == "3.12.4"
    assert asked_probe(freeze=FREEZE, python_version="3.13").interpreter.version == "3.13.15"
    assert asked_probe(freeze=FREEZE, python_version="3.12").interpreter.version == "3.12.0"


@pytest.mark.parametrize(
    ("gpu", "driver", "found"),
    [
        ("", "", None),
        ("none", "", Gpu(Answer.NO, "--gpu none")),
        ("t4", "", Gpu(Answer.YES, "named by the user", "", None, (GpuDevice("t4", (7, 5), 0),))),
        ("", "580.82.07", Gpu(Answer.YES, "named by the user", "580.82.07", (13, 0))),
        (
            "8.6",
            "549.1",
            Gpu(Answer.YES, "named by the user", "549.1", (12, 3), (GpuDevice("8.6", (8, 6), 0),)),
        ),
    ],
)
def test_a_gpu_is_named_by_model_or_capability(gpu: str, driver: str, found: Gpu | None) -> None:
    assert parse_gpu(gpu, driver) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"python_version": "2.7"}, "--python-version '2.7' is not of the form 3.12 or 3.12.4"),
        ({"python_version": "3.12; x"}, "--python-version '3.12; x' is not of the form"),
        ({"platform": "macos"}, "--platform 'macos' is not of the form x86_64-manylinux_2_28"),
    ],
)
def test_what_is_no_target_is_refused(words: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        asked_probe(**words)  # type: ignore[arg-type]
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("gpu", "driver", "message"),
    [
        ("Voodoo2", "", "--gpu 'Voodoo2' is not known here"),
        ("", "12.4", "--driver '12.4' is no driver version of 450 or newer"),
        ("", "new", "--driver 'new' is no driver version of 450 or newer"),
    ],
)
def test_what_is_no_gpu_is_refused(gpu: str, driver: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_gpu(gpu, driver)
    assert caught.value.message == message
    assert caught.value.remedy
