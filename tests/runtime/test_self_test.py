"""The self-test: what it finds, what it remembers, and that it leaves everything else alone."""

from __future__ import annotations

import functools
import gc
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import grpoenv_runtime
from grpoenv_runtime import fast, self_test_run, slow
from grpoenv_runtime.policy import LossOutput, Policy
from grpoenv_runtime.self_test_cache import (
    CACHE_FILE,
    accelerator_present,
    fingerprint,
    passed_before,
    remember_pass,
)
from grpoenv_runtime.self_test_cases import (
    QUICK_CASES,
    Case,
    SlowLossError,
    deep_cases,
    disagreement,
    undisturbed,
)
from grpoenv_runtime.self_test_run import Check, Report, UnsoundFastPathWarning, self_test
from runtime.fake_unsloth import run

SOUND = fast.grpo_compute_loss


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "grpoenv"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test put a wrong loss in the fast one's place."""
    yield monkeypatch
    fast.grpo_compute_loss = SOUND


def altered(change: Any) -> Any:
    @functools.wraps(SOUND)
    def loss(*arguments: Any, **options: Any) -> LossOutput:
        output = SOUND(*arguments, **options)
        return output._replace(loss=change(output.loss))

    return loss


class HalfGradient(torch.autograd.Function):
    """A loss of the right value whose gradient ignores what comes from above."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(upstream[0])


@functools.wraps(SOUND)
def fail(*arguments: Any, **options: Any) -> LossOutput:
    raise RuntimeError("no kernel image")


def test_every_variant_and_level_is_in_the_deep_test() -> None:
    pairs = {
        (case.options["loss_type"], case.options["importance_sampling_level"])
        for case in deep_cases()
    }
    assert pairs == {(name, level) for name in fast_types() for level in ("token", "sequence")}
    dtypes = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
    assert {case.dtype for case in deep_cases()} == dtypes


def fast_types() -> set[str]:
    return set(grpoenv_runtime.LOSS_TYPES)


def test_the_deep_test_passes_here_and_prints_a_table() -> None:
    report = self_test(deep=True)
    assert report.sound, report.table()
    lines = report.table().splitlines()
    assert lines[0] == f"grpoenv 0.1.0, torch {torch.__version__}"
    assert len(lines) == len(report.checks) + 2
    skipped = 0 if torch.cuda.is_available() else 1
    assert lines[-1] == f"{len(report.checks) - skipped} passed, 0 failed, {skipped} skipped"


def test_the_quick_test_covers_the_edge_rows() -> None:
    report = self_test()
    assert report.sound
    assert report.checks[0].name == "registry"
    assert len(report.checks) == 1 + len(QUICK_CASES)


@pytest.mark.parametrize(
    ("loss", "finding"),
    [
        (altered(lambda x: x * 1.001), "loss differs by 1.0e-03 of its largest element"),
        (altered(lambda x: x * torch.nan), "loss differs by nan of its largest element"),
        (altered(lambda x: x[None].expand(2)), "RuntimeError: grad can be implicitly created"),
        (altered(HalfGradient.apply), "gradient of hidden differs by 5.0e-01"),
        (altered(lambda x: x.detach()), "RuntimeError: element 0 of tensors does not require grad"),
        (fail, "RuntimeError: no kernel image"),
    ],
    ids=["value", "nan", "shape", "dropped gradient", "no gradient", "error"],
)
def test_each_kind_of_unsoundness_is_found(
    broken: pytest.MonkeyPatch, loss: Any, finding: str
) -> None:
    broken.setattr(fast, "grpo_compute_loss", loss)
    for case in QUICK_CASES:
        found = disagreement(case)
        assert found is not None and found.startswith(finding)


def test_without_gradients_the_engine_is_not_entered(broken: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the autograd engine was entered")

    broken.setattr(torch.autograd.graph, "_engine_run_backward", refuse)
    broken.setattr(torch.autograd, "_engine_run_backward", refuse)
    broken.setattr(torch.autograd, "grad", refuse)
    assert [disagreement(case, gradients=False) for case in QUICK_CASES] == [None] * 5
    with pytest.raises(SlowLossError, match="the autograd engine was entered"):
        disagreement(QUICK_CASES[0])


def test_an_unsound_fast_loss_is_replaced_with_one_warning(
    broken: pytest.MonkeyPatch, own_cache: Path
) -> None:
    broken.setattr(self_test_run, "accelerator_present", lambda: False)
    broken.setattr(fast, "grpo_compute_loss", fail)
    with pytest.warns(UnsoundFastPathWarning) as caught:
        self_test_run.run_at_import()
    (message,) = (str(warning.message) for warning in caught)
    assert message == (
        f"grpoenv 0.1.0 with torch {torch.__version__}: the fast GRPO loss failed its self-test "
        "(dapo, token ratio: RuntimeError: no kernel image); the slow loss is used instead, which "
        "needs more memory. Please report this with the output of `python -m grpoenv_runtime`."
    )
    assert grpoenv_runtime.grpo_compute_loss is not fail
    assert grpoenv_runtime.RL_REPLACEMENTS["grpo_compute_loss"] is fast.grpo_compute_loss
    hidden, weight = torch.randn(1, 2, 3), torch.randn(5, 3)
    ids, mask = torch.tensor([[1, 2]]), torch.ones(1, 2)
    used: list[str] = []
    original = slow.grpo_compute_loss_slow
    broken.setattr(
        slow, "grpo_compute_loss_slow", lambda *a, **k: (used.append("slow"), original(*a, **k))[1]
    )
    loss = grpoenv_runtime.grpo_loss(hidden, weight, ids, mask, torch.ones(1), loss_type="grpo")
    assert used == ["slow"] and loss.isfinite()
    assert not (own_cache / CACHE_FILE).exists()


def test_on_a_machine_with_an_accelerator_gradients_wait_for_the_first_use(
    broken: pytest.MonkeyPatch, own_cache: Path
) -> None:
    broken.setattr(self_test_run, "accelerator_present", lambda: True)
    broken.setattr(fast, "grpo_compute_loss", altered(HalfGradient.apply))
    self_test_run.run_at_import()
    assert not passed_before(fingerprint())
    hidden, weight = torch.randn(1, 2, 3), torch.randn(5, 3)
    batch = (hidden, weight, torch.tensor([[1, 2]]), torch.ones(1, 2), torch.ones(1))
    with pytest.warns(UnsoundFastPathWarning, match="gradient of hidden differs"):
        grpoenv_runtime.grpo_loss(*batch, loss_type="grpo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grpoenv_runtime.grpo_loss(*batch, loss_type="grpo")


def test_a_sound_first_use_on_a_cpu_is_not_remembered_where_an_accelerator_is(
    broken: pytest.MonkeyPatch, own_cache: Path
) -> None:
    broken.setattr(self_test_run, "accelerator_present", lambda: True)
    tests: list[str] = []
    compare = self_test_run._compare
    self_test_run.run_at_import()
    broken.setattr(
        self_test_run, "_compare", lambda *a, **k: (tests.append("once"), compare(*a, **k))[1]
    )
    assert grpoenv_runtime.grpo_compute_loss is not SOUND
    batch = (torch.randn(1, 2, 3), torch.randn(5, 3), torch.tensor([[1, 2]]), torch.ones(1, 2))
    expected = grpoenv_runtime.grpo_loss(*batch, torch.ones(1), loss_type="grpo")
    assert grpoenv_runtime.grpo_loss(*batch, torch.ones(1), loss_type="grpo") == expected
    assert tests == ["once"] and not passed_before(fingerprint())


@pytest.mark.parametrize("sound", [True, False])
def test_the_first_use_on_a_device_tests_that_device(
    broken: pytest.MonkeyPatch, own_cache: Path, sound: bool
) -> None:
    """A device that no machine lacks stands for a GPU: tensors on it have shapes only."""
    used: list[str] = []

    def loss(policy: Policy, *rest: object) -> LossOutput:
        used.append("fast")
        return LossOutput(torch.zeros(()), {}, torch.zeros(1, 2))

    def compare(cases: Iterable[Case]) -> Iterator[Check]:
        used.extend(case.device for case in cases)
        yield Check("dapo, meta", "passed" if sound else "failed", "no kernel image")

    broken.setattr(fast, "grpo_compute_loss", loss)
    broken.setattr(
        slow, "grpo_compute_loss_slow", lambda *a, **k: (used.append("slow"), loss(*a))[1]
    )
    self_test_run._test_at_first_use()
    broken.setattr(self_test_run, "_compare", compare)
    policy = Policy(torch.empty(1, 2, 3, device="meta"), torch.empty(5, 3, device="meta"))
    if sound:
        on_cpu = Policy(torch.empty(1, 2, 3), torch.empty(5, 3))
        for each in (on_cpu, on_cpu, policy, policy):
            fast.grpo_compute_loss(each)
        assert used == [*["cpu"] * 5, "fast", "fast", *["meta"] * 5, "fast", "fast"]
        assert fast.grpo_compute_loss is loss
    else:
        with pytest.warns(UnsoundFastPathWarning, match="dapo, meta: no kernel image"):
            fast.grpo_compute_loss(policy, None, None)
        assert used == ["meta"] * 5 + ["slow", "fast"]
    assert passed_before(fingerprint()) is sound


def test_a_slow_loss_that_fails_ends_the_import(broken: pytest.MonkeyPatch) -> None:
    original = slow.grpo_compute_loss_slow
    broken.setattr(
        slow, "grpo_compute_loss_slow", functools.wraps(original)(lambda *a, **k: 1 // 0)
    )
    with pytest.raises(
        ImportError, match=r"the slow GRPO loss fails on this machine \(dapo, token ratio: Zero"
    ):
        self_test_run.run_at_import()


def test_a_slow_loss_that_is_not_finite_is_no_oracle(broken: pytest.MonkeyPatch) -> None:
    original = slow.grpo_compute_loss_slow
    broken.setattr(
        slow,
        "grpo_compute_loss_slow",
        lambda *a, **k: original(*a, **k)._replace(loss=original(*a, **k).loss * torch.inf),
    )
    with pytest.raises(SlowLossError, match="loss is not finite"):
        disagreement(QUICK_CASES[0])


# --- state of torch


def state() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_rng_state().sum().item(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        gc.isenabled(),
    )


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.enable_grad(),
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.device("meta"),
    ],
    ids=["plain", "no_grad", "inference_mode", "autocast", "default device"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_test_passes_in_any_surroundings_and_changes_none(
    surroundings: Any, dtype: torch.dtype, own_cache: Path
) -> None:
    torch.set_default_dtype(dtype)
    try:
        with surroundings:
            before = state()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self_test_run.run_at_import()
            assert state() == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_threads_are_restored_after_an_error() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), undisturbed(threads=1):
        assert torch.get_num_threads() == 1
        _ = 1 // 0
    assert torch.get_num_threads() == 2


# --- memory


def test_a_pass_is_remembered_and_another_environment_is_not(own_cache: Path) -> None:
    assert not passed_before("a", own_cache)
    assert remember_pass("a", own_cache) and remember_pass("b", own_cache)
    assert passed_before("a", own_cache) and passed_before("b", own_cache)
    assert not passed_before("c", own_cache)


def test_only_the_last_32_are_remembered(own_cache: Path) -> None:
    for number in range(40):
        remember_pass(str(number), own_cache)
    assert [passed_before(str(number), own_cache) for number in (7, 8, 39)] == [False, True, True]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"schema": 2, "passed": ["a"]}',
        b'{"schema": 1, "passed": "a"}',
        b'{"schema": 1, "passed": [1, "a"]}',
        b"[" * 9000,
        b'{"schema": 1, "passed": ["a"]}' + b" " * 20_000,
    ],
)
def test_a_corrupt_memory_is_absent_and_replaced(own_cache: Path, content: bytes) -> None:
    remember_pass("a", own_cache)
    (own_cache / CACHE_FILE).write_bytes(content)
    assert not passed_before("a", own_cache)
    assert remember_pass("b", own_cache)
    assert json.loads((own_cache / CACHE_FILE).read_bytes()) == {"schema": 1, "passed": ["b"]}


def test_the_fingerprint_is_stable_and_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = {fingerprint()}
    assert fingerprint() in seen
    for target, value in {
        "grpoenv_runtime.self_test_cache.__version__": "9.9",
        "torch.__version__": "9.9",
        "torch.version.cuda": "99.1",
        "grpoenv_runtime.self_test_cache._stamp_of": lambda name: f"{name} 1",
        "grpoenv_runtime.self_test_cache._sources": lambda name: ["edited"],
        "grpoenv_runtime.self_test_cache._read": lambda path: "driver 1",
        "grpoenv_runtime.self_test_cache._names": lambda path: ["0000:01:00.0"],
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            mark = fingerprint()
        assert mark not in seen, target
        seen.add(mark)


def test_an_accelerator_needs_a_build_and_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr("grpoenv_runtime.self_test_cache._DEVICE_NODES", ("/dev/null",))
    assert accelerator_present()
    monkeypatch.setattr("grpoenv_runtime.self_test_cache._DEVICE_NODES", ("/dev/nothing",))
    assert not accelerator_present()
    monkeypatch.setattr("grpoenv_runtime.self_test_cache._DEVICE_NODES", ("/dev/null",))
    for build in ("cuda", "hip", "xpu"):
        monkeypatch.setattr(torch.version, build, None, raising=False)
    assert not accelerator_present()


def test_the_table_says_what_failed() -> None:
    report = Report((Check("a", "passed", "", 1.0), Check("bb", "failed", "loss differs", 2.0)))
    assert not report.sound
    assert report.table().splitlines()[1:] == [
        "a   passed       1.0 ms",
        "bb  failed       2.0 ms  loss differs",
        "1 passed, 1 failed, 0 skipped",
    ]


# --- the import itself, in processes of their own


def test_the_import_tests_once_and_touches_nothing(tmp_path: Path) -> None:
    program = """
import gc, sys, threading, torch
def refuse(*a, **k):
    raise AssertionError("CUDA was asked")
for name in ("init", "_lazy_init", "is_available", "device_count", "current_device"):
    setattr(torch.cuda, name, refuse)
torch.compile = refuse
before = (torch.get_num_threads(), torch.initial_seed(), torch.get_rng_state().sum().item(), gc.isenabled())
import grpoenv_runtime
after = (torch.get_num_threads(), torch.initial_seed(), torch.get_rng_state().sum().item(), gc.isenabled())
print(before == after, threading.active_count(), torch.cuda.is_initialized(),
      "grpoenv_runtime.self_test_run" in sys.modules, "httpx" in sys.modules,
      "triton" in sys.modules)
"""
    cold, warm = run(tmp_path, program), run(tmp_path, program)
    assert cold.stdout == "True 1 False True False False\n", cold.stderr
    assert warm.stdout == "True 1 False False False False\n", warm.stderr
    off = run(tmp_path, program, GRPOENV_NO_SELF_TEST="1", XDG_CACHE_HOME=str(tmp_path / "other"))
    assert off.stdout == "True 1 False False False False\n", off.stderr
    assert cold.stderr == warm.stderr == off.stderr == ""


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    result = run(tmp_path, "import grpoenv_runtime; print(grpoenv_runtime.grpo_loss.__name__)")
    assert (result.stdout, result.stderr) == ("grpo_loss\n", "")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/simple", "not an address"])
def test_an_index_out_of_reach_does_not_disturb_the_import(tmp_path: Path, address: str) -> None:
    state_file = tmp_path / "cache" / "grpoenv" / "update-v1.json"
    state_file.parent.mkdir(parents=True, mode=0o700)
    state_file.write_text(
        '{"schema": 1, "stamp_s": 1, "failures": 0, "installed": "", "newest": null}'
    )
    state_file.chmod(0o600)
    names = ("GRPOENV_NO_UPDATE_CHECK", "CI", "PYTEST_CURRENT_TEST", "PIP_NO_INDEX", "UV_OFFLINE")
    zero = dict.fromkeys(names, "0")
    program = (
        "import torch, threading\nimport grpoenv_runtime\nprint(grpoenv_runtime.grpo_loss.__name__)\n"
        "for thread in threading.enumerate():\n"
        "    thread.daemon and thread.join(60)\n"
    )
    result = run(tmp_path, program, UV_DEFAULT_INDEX=address, **zero)
    assert (result.stdout, result.stderr) == ("grpo_loss\n", "")
    assert json.loads(state_file.read_text())["failures"] == 1


def test_the_command_prints_the_table_and_exits_with_0(tmp_path: Path) -> None:
    program = "import runpy\nrunpy.run_module('grpoenv_runtime', run_name='__main__')"
    result = run(tmp_path, program)
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1].endswith(" 0 failed, 1 skipped")
