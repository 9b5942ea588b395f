"""The deep checks that run code of the environment: what each answer of the child leads to."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grpoenv._data import data_paths
from grpoenv.checks import Check, Environment, Finding, Severity, Use, loading, numerics, toolchain
from grpoenv.child import Answered, Failed
from grpoenv.matrix import Matrix
from grpoenv.verify import verify
from site_packages import Site

STEPS = {"kl": [0.0, 0.01], "loss": [0.0, 0.1]}


def found(
    site: Site, check: Check, answer: Answered | Failed, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Severity, str]]:
    for module in (loading, numerics, toolchain):
        monkeypatch.setattr(module, "ask", lambda *_, **__: answer)
    verdict = verify(
        site.probe(), Matrix(Path("none")), data_paths(), checks=[check], use=Use(deep=True)
    )
    return [(f.severity, f.message) for f in verdict.findings if f.check == check.name]


def test_importing_the_checks_changes_no_variable() -> None:
    code = "import os; a = dict(os.environ); import grpoenv.checks; exit(a != dict(os.environ))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answered(0, STEPS, ""), None),
        (
            Answered(0, {**STEPS, "kl": [0.3, 0.1]}, ""),
            (Severity.PROBLEM, "the KL divergence at s"),
        ),
        (Answered(0, {**STEPS, "kl": [-0.3]}, ""), (Severity.PROBLEM, "the KL divergence at step")),
        (
            Answered(0, {**STEPS, "loss": [float("nan")]}, ""),
            (Severity.PROBLEM, "GRPO steps are no"),
        ),
        (
            Answered(1, {}, "KeyError: x"),
            (Severity.PROBLEM, "cannot train a tiny model by GRPO: K"),
        ),
        (Answered(0, {}, ""), (Severity.PROBLEM, "cannot train a tiny model by GRPO")),
        (Answered(1, {}, "0 active drivers"), (Severity.NOTE, "no GRPO step was run: its Triton")),
        (Failed("no answer within 1 s"), (Severity.UNDETERMINED, "GRPO steps: no answer within")),
    ],
)
def test_real_steps_are_judged(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answered | Failed,
    expected: tuple[Severity, str] | None,
) -> None:
    for name in ("torch", "trl", "transformers", "datasets"):
        site.put(name, "1")
    seen = found(site, numerics.GRPO_CHECK, answer, monkeypatch)
    assert [(s, m[: len(expected[1])]) for s, m in seen if expected] == [expected] * bool(expected)
    assert bool(seen) == bool(expected)


def test_without_a_trainer_the_step_is_not_run_and_that_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = found(site, numerics.GRPO_CHECK, Failed("asked"), monkeypatch)
    assert seen == [
        (
            Severity.NOTE,
            "no GRPO step was run, because torch, trl, transformers, datasets is not installed",
        )
    ]


@pytest.mark.parametrize(
    ("installed", "answer", "expected"),
    [
        (False, Failed("asked"), Severity.NOTE),
        (True, Answered(0, {}, ""), None),
        (True, Answered(1, {}, "unsound"), Severity.PROBLEM),
        (True, Failed("ended by SIGSEGV"), Severity.UNDETERMINED),
    ],
)
def test_the_self_test_is_judged(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    answer: Answered | Failed,
    expected: Severity | None,
) -> None:
    if installed:
        site.put("grpoenv", "0.1.0")
    seen = found(site, numerics.CHECK, answer, monkeypatch)
    assert [severity for severity, _ in seen] == [expected] * bool(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answered(0, {"ran": True, "right": True}, ""), None),
        (Answered(0, {"ran": True, "right": False}, ""), Severity.PROBLEM),
        (Answered(0, {"ran": False, "cubin_bytes": 9}, ""), Severity.NOTE),
        (Answered(1, {}, "fatal error: Python.h"), Severity.PROBLEM),
        (Failed("no answer"), Severity.UNDETERMINED),
    ],
)
def test_the_kernel_is_judged(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answered | Failed,
    expected: Severity | None,
) -> None:
    site.put("triton", "3").put("torch", "2")
    seen = found(site, toolchain.COMPILE_CHECK, answer, monkeypatch)
    assert [severity for severity, _ in seen] == [expected] * bool(expected)


def test_libraries_are_really_loaded(site: Site) -> None:
    """With the interpreter of the tests: one file that is no library among its own."""
    site.put("tokenizers", "1", files={"tokenizers/a.so": "no library"})
    probe = site.probe()
    probe = replace(probe, interpreter=replace(probe.interpreter, executable=sys.executable))
    verdict = verify(
        probe, Matrix(Path("none")), data_paths(), checks=[loading.CHECK], use=Use(deep=True)
    )
    (finding,) = verdict.problems
    assert finding.culprit == "tokenizers 1"
    assert finding.message.startswith(f"cannot be loaded: {site.folder}/tokenizers/a.so: file too")


def test_deep_checks_are_left_out_by_default_and_that_is_said(site: Site) -> None:
    verdict = verify(site.probe(), Matrix(Path("none")), data_paths(), use=Use())
    (note,) = [
        finding
        for finding in verdict.findings
        if finding.culprit == "grpoenv" and not finding.check
    ]
    assert note.message.startswith("did not run hashes, loading, kernel, self-test, training: ")
    assert not {"hashes", "loading"} & set(verdict.checks)


def test_a_check_that_stumbles_is_undetermined(site: Site) -> None:
    def stumble(environment: Environment) -> list[Finding]:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    check = Check("one", "nothing", stumble, evidence="a file")
    verdict = verify(site.probe(), Matrix(Path("none")), data_paths(), checks=[check])
    (finding,) = verdict.undetermined
    assert finding.message.startswith("could not end: UnicodeDecodeError: 'utf-8' codec can't dec")
    assert verdict.seconds.keys() == {"one"}
