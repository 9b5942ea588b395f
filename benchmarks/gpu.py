"""Everything that is to be shown on a GPU, in one command.

    python benchmarks/gpu.py FOLDER                 # all parts
    python benchmarks/gpu.py FOLDER kernels parity  # some; each takes less than ten minutes
    python benchmarks/gpu.py FOLDER --device cpu    # tiny sizes: does every step run?

Needs a CUDA machine with torch and Triton; docs/gpu.md says what to carry there. Every step runs in a process of its own within a time limit; one that fails, or whose package
is absent, is recorded and does not stop the others. FOLDER receives the results as JSON, the output
of every step, and ``log.json``: what was run, how long it took and how it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
PARTS = ("kernels", "long", "parity", "training", "evidence")


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: of the step and of its files.
        part: a group of steps that takes less than ten minutes.
        timeout_s: time limit.
        command: ``{out}`` stands for the folder of results.
        needs: a module that must be there.
        writes: the file for standard output, if it is a result; else it goes to the log.
        answers: exit statuses of a step that did its work; grpoenv's 1 says that it found something.

    """

    name: str
    part: str
    timeout_s: int
    command: tuple[str, ...]
    needs: str = "torch"
    writes: str | None = None
    answers: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Scale:
    """Sizes ``NxHxV`` of a device's runs, and the options of its training runs.

    ``patience`` is a factor on the time limits.
    """

    device: str
    patience: int
    dtypes: tuple[str, ...]
    rounds: int
    cases: tuple[str, ...]
    sizes: tuple[str, ...]
    long: tuple[str, ...]
    narrow: tuple[str, ...]
    training: tuple[str, ...]
    level: str


GPU = Scale(
    "cuda",
    1,
    ("bfloat16",),
    3,
    (),
    ("16384x4096x128256", "16384x4096x151936"),
    ("65536x4096x128256", "65536x4096x151936"),
    ("16384x2048x151936", "16384x1536x151936"),
    ("--steps=20", "--hidden=1024", "--layers=4", "--vocabulary=151936", "--completion=128",
     "--batch=32"),
    "gpu",
)  # fmt: skip

TINY = Scale(
    "cpu",
    10,
    ("float32",),
    1,
    ("--workloads", "grpo", "--heads", "trainable"),
    ("256x64x1000",),
    ("512x64x1000",),
    ("256x32x1000",),
    ("--steps=2", "--hidden=64", "--layers=1", "--vocabulary=300", "--completion=8", "--batch=4"),
    "linked",
)


def losses(scale: Scale, name: str, sizes: tuple[str, ...], *rest: str) -> tuple[str, ...]:
    """Return the command that compares fused heads at some sizes."""
    options = ("--device", scale.device, "--dtypes", *scale.dtypes, "--rounds", str(scale.rounds))
    where = ("--json", f"{{out}}/{name}.json", "--sizes", *sizes)
    return (PYTHON, "benchmarks/losses.py", *options, *scale.cases, *where, *rest)


def steps(scale: Scale) -> list[Step]:
    """Return all steps, the most important of a part first."""
    smoke = (PYTHON, "-m", "grpoenv_kernels", "--device", scale.device, "--json")
    trainer = (PYTHON, "benchmarks/trainer.py", *scale.training, "--json")
    interpreter = ("env", "TRITON_INTERPRET=1") if scale.device == "cpu" else ()
    cases = (*interpreter, PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    grpoenv = (PYTHON, "-m", "grpoenv")
    few = ("--contenders", "ours", "trl", "unsloth_zoo", "cce")
    alone = ("--contenders", "ours", "trl")
    return [
        Step("smoke", "kernels", 60, smoke, writes="smoke.json"),
        Step("losses", "kernels", 480, losses(scale, "losses", scale.sizes)),
        Step("plot", "kernels", 30, (PYTHON, "benchmarks/losses.py", "--plot", "{out}/losses.json"),
             needs="matplotlib"),
        Step("long", "long", 400, losses(scale, "long", scale.long, *few)),
        Step("narrow", "long", 150, losses(scale, "narrow", scale.narrow, *alone)),
        Step("self-test", "parity", 150, (PYTHON, "-m", "grpoenv_runtime")),
        Step("fallback", "parity", 60, (PYTHON, "benchmarks/gpu_checks.py", "fallback",
             scale.device), writes="fallback.json"),
        Step("self-test-cost", "parity", 90, (PYTHON, "benchmarks/gpu_checks.py", "cost",
             scale.device), writes="self-test-cost.json"),
        Step("triton-cases", "parity", 120, (*cases, "tests/kernels/triton_cases.py"),
             needs="pytest"),
        Step("sanitizer", "parity", 150, (sanitizer(), "--error-exitcode", "9", *smoke[:5],
             "--parity", "--json"), writes="sanitizer.txt"),
        Step("trainer", "training", 200, (*trainer, "{out}/trainer.json"), needs="trl"),
        Step("trainer-bf16", "training", 150, (*trainer, "{out}/trainer-bf16.json", "--bf16"),
             needs="trl"),
        Step("trainer-unsloth", "training", 240, (*trainer, "{out}/trainer-unsloth.json",
             "--modes", "unsloth"), needs="unsloth"),
        Step("verify", "evidence", 180, (*grpoenv, "verify", "--deep", "--json"),
             writes="verify.json", answers=(0, 1)),
        Step("probe", "evidence", 30, (PYTHON, "benchmarks/gpu_checks.py", "probe", scale.device),
             writes="probe.json"),
        Step("matrix-test", "evidence", 370, (*grpoenv, "matrix", "test", "trl-1.16", "--json",
             "--level", scale.level, "--campaign", "{out}/campaign", "--time-limit", "330"), writes="matrix-test.json",
             answers=(0, 1)),
    ]  # fmt: skip


def sanitizer() -> str:
    """Return the path of CUDA's memory checker, or its name where it is not to be found."""
    known = Path("/usr/local/cuda/bin/compute-sanitizer")
    return shutil.which("compute-sanitizer") or (str(known) if known.exists() else known.name)


def environment(scale: Scale, out: Path) -> dict[str, str]:
    """Return the environment of every step: no network, and caches that are new with FOLDER."""
    chosen = {
        "HF_HUB_OFFLINE": "1",
        "GRPOENV_NO_UPDATE_CHECK": "1",
        "TRITON_DEFAULT_FP_FUSION": "1",
        "XDG_CACHE_HOME": str(out / "cache"),
        "TRITON_CACHE_DIR": str(out / "cache" / "triton"),
    }
    if scale.device == "cpu":
        chosen |= {"UNSLOTH_ALLOW_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **chosen}


def run(step: Step, scale: Scale, out: Path) -> dict[str, Any]:
    """Run a step and return its entry of the log."""
    command = [word.replace("{out}", str(out)) for word in step.command]
    entry = {**asdict(step), "command": shown(command, out)}
    entry["started"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if find_spec(step.needs) is None:
        return {**entry, "outcome": "absent", "reason": f"{step.needs} is not installed"}
    log = out / f"{step.name}.log"
    start = time.monotonic()
    with log.open("w") as errors, (out / step.writes if step.writes else log).open("a") as output:
        if step.writes:
            output.truncate(0)
        limit = scale.patience * step.timeout_s
        entry |= watch(command, limit, environment(scale, out), output, errors)
    if entry.get("status", 0) not in step.answers:
        entry["outcome"] = "failed"
    return {**entry, "seconds": round(time.monotonic() - start, 1)}


def watch(
    command: list[str], timeout_s: int, variables: dict[str, str], output: Any, errors: Any
) -> dict[str, Any]:
    """Run a command in a group of its own, so that what it started ends with it."""
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=output, stderr=errors,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return {"outcome": "absent", "reason": f"{Path(command[0]).name}: {error.strerror}"}
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return {"outcome": "timed out"}
    finally:
        end_group(process)
    return {"outcome": "done", "status": status}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and whatever is left of its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def shown(command: list[str], out: Path) -> str:
    """Return a command as anybody may repeat it, without this machine's paths."""
    text = " ".join(command)
    return text.replace(PYTHON, "python").replace(str(out), "FOLDER").replace(str(ROOT), ".")


def tail(step: Step, out: Path) -> str:
    """Return the last lines that a step printed."""
    text = "".join(
        path.read_text(errors="replace")
        for path in (out / f"{step.name}.log", out / (step.writes or "-"))
        if path.exists()
    )
    return "\n".join(text.strip().splitlines()[-3:])


def main() -> int:
    """Run the steps of the chosen parts; 0 if none failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", nargs="*", help="the steps of these names")
    options = parser.parse_intermixed_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is named {', '.join(sorted(unknown))}")
    if unknown := set(options.only or ()) - {step.name for step in steps(GPU)}:
        parser.error(f"no step is named {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a step ends with this
    scale, out = GPU if options.device == "cuda" else TINY, options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = [
        step
        for step in steps(scale)
        if step.part in (options.parts or PARTS) and step.name in (options.only or [step.name])
    ]
    return run_all(chosen, scale, out)


def run_all(chosen: list[Step], scale: Scale, out: Path) -> int:
    """Run steps one after the other, adding each to the log as it ends."""
    path = out / "log.json"
    log = json.loads(path.read_text()) if path.exists() else {}
    for step in chosen:
        print(f"{step.part}/{step.name}, at most {scale.patience * step.timeout_s} s …", flush=True)
        log[step.name] = run(step, scale, out)
        path.write_text(json.dumps(log, indent=1) + "\n")
        entry = log[step.name]
        print(f"  {entry['outcome']} {entry.get('reason', '')} {entry.get('seconds', 0)} s")
        if entry["outcome"] in ("failed", "timed out"):
            print(tail(step, out))
    return int(any(log[step.name]["outcome"] in ("failed", "timed out") for step in chosen))


if __name__ == "__main__":
    raise SystemExit(main())
