"""The resolver on small matrices, and its plans for the real hosted images."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from depot import NO_GPU, Depot, make_probe
from grpoenv._data import data_paths
from grpoenv.errors import InputError, NoStackFits
from grpoenv.gpu import Answer, Gpu, GpuDevice
from grpoenv.lockfile import CpuBuild, Lock
from grpoenv.matrix import Matrix
from grpoenv.matrix_file import load_matrix
from grpoenv.planning import locks_for
from grpoenv.probe import Probe, probe_from_freeze
from grpoenv.resolve import Plan, TorchSource, Wishes, resolve

HASH = "sha256:" + "c" * 64
GPU = Gpu(Answer.YES, "NVML", "580.1", (13, 0), (GpuDevice("T4", (7, 5), 15360),))
OLD_GPU = replace(GPU, driver="535.54", cuda=(12, 2))
PY = "3.11"


def plan(depot: Depot, probe: Probe, **wishes: object) -> Plan:
    matrix = depot.matrix()
    locks = locks_for(probe, matrix, depot.data)
    return resolve(probe, matrix, locks, Wishes(**wishes))  # type: ignore[arg-type]


def refusal(depot: Depot, probe: Probe, **wishes: object) -> str:
    with pytest.raises(NoStackFits) as caught:
        plan(depot, probe, **wishes)
    return caught.value.message


def changes(found: Plan) -> dict[str, tuple[str | None, str]]:
    return {
        change.pin.name: (str(change.old) if change.old else None, str(change.new))
        for change in found.changes
    }


def test_the_strongest_evidence_goes_before_the_newest(depot: Depot) -> None:
    depot.stack("new", [depot.wheel("trl", "2.0")], python=PY)
    depot.stack("run", [depot.wheel("trl", "1.0")], level="trained", python=PY)
    found = plan(depot, make_probe())
    assert found.stack.id == "run"
    assert [(row.stack, row.reasons) for row in found.rejected] == [
        ("new", ("its evidence is resolved, that of run trained",))
    ]


def test_the_newest_goes_before_the_smallest_change(depot: Depot) -> None:
    depot.stack("old", [depot.wheel("trl", "1.0")], python=PY)
    depot.stack("new", [depot.wheel("trl", "1.10")], python=PY)
    found = plan(depot, make_probe({"trl": "1.0"}))
    assert found.stack.id == "new"
    assert found.rejected[0].reasons == ("it is older: trl 1.0",)
    assert changes(found) == {"trl": ("1.0", "1.10")}


def test_the_smallest_change_decides_last(depot: Depot) -> None:
    trl = depot.wheel("trl", "1.0")
    depot.stack("other", [trl, depot.wheel("peft", "2")], python=PY)
    depot.stack("same", [trl, depot.wheel("peft", "1")], python=PY)
    found = plan(depot, make_probe({"peft": "1"}))
    assert found.stack.id == "same"
    assert found.rejected[0].reasons == ("it replaces more installed packages than same",)


def test_a_local_version_is_the_same_version(depot: Depot) -> None:
    depot.stack("one", [depot.wheel("trl", "1"), depot.wheel("torch", "2.6.0")], python=PY)
    found = plan(depot, make_probe({"torch": "2.6.0+cu124", "trl": "1"}))
    assert found.changes == ()
    assert [(kept.name, str(kept.version)) for kept in found.kept] == [
        ("torch", "2.6.0+cu124"),
        ("trl", "1"),
    ]


def test_nothing_fits_names_the_nearest_stacks_and_what_each_misses(depot: Depot) -> None:
    depot.stack("snake", [depot.wheel("trl", "1")], python="3.9")
    depot.stack("far", [depot.wheel("unsloth", "1")], runtime="unsloth", python="3.9")
    assert refusal(depot, make_probe()) == (
        "no tested stack fits\n"
        "  snake: it is locked for Python 3.9, and this one is 3.11\n"
        "  far: its runtime is unsloth, not trl; "
        "it is locked for Python 3.9, and this one is 3.11"
    )


def test_an_old_libc_is_named(depot: Depot) -> None:
    depot.stack("one", [depot.wheel("trl", "1")], python=PY)
    probe = make_probe(platform_tags=("manylinux_2_12_x86_64",), libc="glibc 2.12")
    assert "x86_64-manylinux_2_17, and this is Linux x86_64 with glibc 2.12" in refusal(
        depot, probe
    )


def test_pins_and_extra_packages_are_conditions(depot: Depot) -> None:
    depot.stack("one", [depot.wheel("trl", "1")], python=PY)
    message = refusal(
        depot,
        make_probe(),
        pins={"trl": Version("2"), "peft": Version("1")},
        with_packages=("vllm",),
    )
    assert "one: vllm is no part of it; it has trl 1, not 2; it has no peft" in message


def test_a_stack_that_is_a_known_break_is_never_chosen(depot: Depot) -> None:
    depot.stack("one", [depot.wheel("trl", "1"), depot.wheel("torch", "2")], python=PY)
    depot.breaks.append("""
        [[break]]
        id = "bad"
        class = "abi"
        summary = "they crash"
        symptom = "Segmentation fault"
        [break.when]
        trl = "==1"
        torch = ">=2"
        [[break.evidence]]
        date = 2026-11-23
        machine = "a test"
        command = "pytest"
        """)
    depot.write()
    assert "one: known break bad: they crash" in refusal(depot, make_probe())


def failing_stack(depot: Depot, level: str) -> None:
    """Add a newer stack that failed to reach ``level`` without a GPU, and an older one."""
    depot.stack("new", [depot.wheel("trl", "2.0")], python=PY)
    depot.stacks[-1] += f"""
        [[stack.target.failure]]
        level = "{level}"
        step = "a step"
        error = "ImportError: no such name"
        date = 2026-11-26
        grpoenv = "0.1.0"
        machine = "a test, no GPU"
        command = "grpoenv matrix test new"
        """
    depot.stack("old", [depot.wheel("trl", "1.0")], python=PY)


def test_a_stack_that_does_not_train_on_a_cpu_may_on_a_gpu(depot: Depot) -> None:
    failing_stack(depot, "trained")
    assert plan(depot, make_probe()).stack.id == "old"
    assert plan(depot, make_probe(gpu=GPU), stack="trl").stack.id == "new"


@pytest.mark.parametrize("gpu", [NO_GPU, GPU])
def test_a_stack_that_failed_to_be_imported_is_never_chosen(depot: Depot, gpu: Gpu) -> None:
    failing_stack(depot, "imported")
    found = plan(depot, make_probe(gpu=gpu), stack="trl")
    assert found.stack.id == "old"
    assert found.rejected[0].reasons == (
        "it could not be imported on 2026-11-26: ImportError: no such name",
    )


def test_a_stack_can_be_named_by_its_id(depot: Depot) -> None:
    depot.stack("old", [depot.wheel("trl", "1.0")], python=PY)
    depot.stack("new", [depot.wheel("trl", "1.10")], python=PY)
    assert plan(depot, make_probe(), stack="old").stack.id == "old"


def test_a_driver_too_old_for_the_cuda_of_torch_is_named(depot: Depot) -> None:
    pins = [depot.wheel("trl", "1"), depot.wheel("nvidia-cuda-runtime", "13.0.96")]
    depot.stack("one", pins, python=PY)
    message = refusal(depot, make_probe(gpu=OLD_GPU), stack="trl")
    assert "torch is built for CUDA 13.0, and driver 535.54 admits CUDA 12.2" in message
    assert plan(depot, make_probe(gpu=GPU), stack="trl").stack.id == "one"


@pytest.mark.parametrize(
    ("host", "gpu", "runtime"),
    [
        ("plain", NO_GPU, "trl"),
        ("plain", GPU, "unsloth"),
        ("plain", Gpu(Answer.UNKNOWN, "hung"), "unsloth"),
        ("vertex", NO_GPU, "trl"),
        ("colab", NO_GPU, "unsloth"),
    ],
)
def test_the_runtime_follows_the_gpu_and_the_host(
    depot: Depot, host: str, gpu: Gpu, runtime: str
) -> None:
    depot.stack("t", [depot.wheel("trl", "1")], python=PY)
    depot.stack("u", [depot.wheel("unsloth", "1")], runtime="unsloth", python=PY)
    assert plan(depot, make_probe(host=host, gpu=gpu)).stack.runtime == runtime


def image_stack(depot: Depot, id_: str, trl: str, torch: str) -> None:
    pins = [depot.wheel("trl", trl), depot.wheel("torch", torch)]
    depot.stack(id_, pins, python=PY, extra=f'image = "{id_}"\nkeeps = ["torch"]')


def test_an_image_stack_needs_the_torch_that_it_keeps(depot: Depot) -> None:
    image_stack(depot, "colab-1", "1", "2.6.0")
    colab = make_probe({"torch": "2.6.0+cu124"}, host="colab")
    assert plan(depot, colab, stack="trl").torch is TorchSource.KEPT
    message = refusal(depot, make_probe({"torch": "2.7.0"}, host="colab"), stack="trl")
    assert "it keeps torch 2.6.0 of colab-1, and 2.7.0 is installed" in message
    assert "keeps torch 2.6.0 of colab-1, and it is not installed" in refusal(depot, make_probe())


def test_a_stack_of_another_host_is_not_taken(depot: Depot) -> None:
    image_stack(depot, "kaggle-1", "1", "2.6.0")
    colab = make_probe({"torch": "2.6.0"}, host="colab")
    assert "made for kaggle-1, and this is colab" in refusal(depot, colab, stack="trl")
    assert plan(depot, colab, stack="trl", host="kaggle").stack.id == "kaggle-1"


def test_the_torch_of_an_image_is_replaced_only_on_request(depot: Depot) -> None:
    depot.stack("one", [depot.wheel("trl", "1"), depot.wheel("torch", "2.7.0")], python=PY)
    colab = make_probe({"torch": "2.6.0+cu124"}, host="colab")
    assert "would replace the image's torch 2.6.0+cu124 with 2.7.0" in refusal(
        depot, colab, stack="trl"
    )
    found = plan(depot, colab, stack="trl", pins={"torch": Version("2.7.0")})
    assert changes(found)["torch"] == ("2.6.0+cu124", "2.7.0")


def cpu_stack(depot: Depot) -> None:
    torch = depot.wheel("torch", "2.13.0")
    cpu = CpuBuild(Version("2.13.0+cpu"), HASH, 7)
    torch = replace(torch, hashes=(*torch.hashes, HASH), cpu=cpu)
    cuda = replace(depot.wheel("nvidia-cublas", "13"), cuda_only=True)
    depot.stack("one", [depot.wheel("trl", "1"), torch, cuda], python=PY)


CPU_WHEEL = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.mark.parametrize(
    ("wheels", "gpu", "backend", "source", "torch", "names"),
    [
        ((CPU_WHEEL,), NO_GPU, False, TorchSource.CPU_FOLDER, "2.13.0+cpu", {"torch", "trl"}),
        ((), NO_GPU, True, TorchSource.CPU_BACKEND, "2.13.0+cpu", {"torch", "trl"}),
        ((), NO_GPU, False, TorchSource.INDEX, "2.13.0", {"torch", "trl", "nvidia-cublas"}),
        ((CPU_WHEEL,), GPU, True, TorchSource.INDEX, "2.13.0", {"torch", "trl", "nvidia-cublas"}),
        (
            (CPU_WHEEL.replace("311", "312"),),
            NO_GPU,
            False,
            TorchSource.INDEX,
            "2.13.0",
            {"torch", "trl", "nvidia-cublas"},
        ),
    ],
)
def test_a_machine_without_a_gpu_takes_the_cpu_build_where_there_is_one(
    depot: Depot,
    wheels: tuple[str, ...],
    gpu: Gpu,
    backend: bool,
    source: TorchSource,
    torch: str,
    names: set[str],
) -> None:
    cpu_stack(depot)
    found = plan(depot, make_probe(gpu=gpu, wheels=wheels), stack="trl", cpu_backend=backend)
    assert found.torch is source
    assert changes(found)["torch"] == (None, torch)
    assert changes(found).keys() == names


def test_an_installed_cpu_torch_is_kept_without_a_gpu_and_replaced_with_one(depot: Depot) -> None:
    cpu_stack(depot)
    have = {"torch": "2.13.0+cpu"}
    kept = plan(depot, make_probe(have))
    assert (kept.torch, changes(kept).keys()) == (TorchSource.KEPT, {"trl"})
    replaced = plan(depot, make_probe(have, gpu=GPU), stack="trl")
    assert changes(replaced)["torch"] == ("2.13.0+cpu", "2.13.0")
    assert "nvidia-cublas" in changes(replaced)


def test_a_lock_that_lacks_a_version_of_its_stack_is_an_error(depot: Depot) -> None:
    depot.stack("one", [depot.wheel("trl", "1")], python=PY)
    text = depot.data.matrix.read_text().replace('"trl" = "1"', '"trl" = "1"\npeft = "1"')
    depot.data.matrix.write_text(text)
    with pytest.raises(InputError, match="lacks peft, which stack one names"):
        plan(depot, make_probe())


@cache
def real_matrix() -> tuple[Matrix, dict[str, Lock]]:
    data = data_paths()
    matrix = load_matrix(data.matrix)
    return matrix, locks_for(make_probe(), matrix, data)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(["trl", "torch", "numpy", "transformers", "uv", "unsloth", "other"]),
        st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}(\+cu12)?", fullmatch=True),
    )
)
def test_applying_a_plan_leaves_nothing_to_change(packages: dict[str, str]) -> None:
    matrix, locks = real_matrix()
    probe = make_probe(packages)
    first = resolve(probe, matrix, locks, Wishes())
    after = {**probe.packages, **{change.pin.name: change.new for change in first.changes}}
    again = resolve(replace(probe, packages=after), matrix, locks, Wishes())
    assert again.changes == ()
    assert again.stack.id == first.stack.id


@pytest.mark.parametrize(
    ("image", "python", "torch", "replaced"),
    [
        ("colab-2025-04", "3.11", "2.6.0+cu124", {"fsspec", "protobuf"}),
        ("colab-2025-10", "3.12", "2.8.0+cu126", {"datasets", "pyarrow", "transformers"}),
        (
            "colab-2026-04",
            "3.12",
            "2.10.0+cu128",
            {"datasets", "pyarrow", "torchao", "transformers"},
        ),
        ("colab-2026-08", "3.13", "2.11.0+cu128", {"datasets", "pyarrow", "torchao"}),
        (
            "kaggle-2026-06",
            "3.12",
            "2.10.0+cu128",
            {"datasets", "pyarrow", "torchao", "transformers"},
        ),
    ],
)
def test_each_hosted_image_gets_its_own_stack_and_keeps_what_it_runs_on(
    image: str, python: str, torch: str, replaced: set[str]
) -> None:
    data = data_paths()
    matrix = load_matrix(data.matrix)
    path: Path = data.locks / "images" / f"{image}.txt"
    t4 = replace(GPU, driver="580.82.07", cuda=(12, 8))
    probe = probe_from_freeze(path, host=image.partition("-")[0], gpu=t4)
    found = resolve(probe, matrix, locks_for(probe, matrix, data), Wishes())
    assert (found.stack.id, found.target.python) == (image, python)
    assert found.torch is TorchSource.KEPT
    kept = {kept.name: str(kept.version) for kept in found.kept}
    assert kept["torch"] == torch
    assert {"triton", "numpy"} <= kept.keys()
    assert {name for name, (old, _) in changes(found).items() if old} == replaced
    assert not any(name.startswith(("nvidia-c", "cuda-")) for name in changes(found))
