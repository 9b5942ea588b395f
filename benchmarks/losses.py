"""Time, memory and errors of fused heads, forward and backward, beside the floor.

    python benchmarks/losses.py                      # what a CPU can take
    python benchmarks/losses.py --device cuda --sizes 16384x4096x128256 --dtypes bfloat16
    python benchmarks/losses.py --plot results.json  # a picture of an earlier run

Every contender runs in a process of its own; on a CPU timed runs go round, so that a busy moment
hits all. The first of two untimed runs is held against float64.
A contender whose package is absent or that fails is listed with the reason. Times are CPU times on
a CPU (one thread unless ``--threads`` says otherwise), of a process that keeps the memory it freed:
otherwise a run takes the longer, the more pages the system has to find and zero for it. Memory is
that of a process that does not. The floor is what the products of the tokens that count take: 2
products with a frozen head, 3 with a trainable one; on a CPU without bfloat16 instructions at the
float32 rate. A shared machine's rate changes by a fifth within seconds, so each run is held against
the better of the rates measured directly before and after it ("x floor", the median over the runs,
and its spread), and the median time against the best rate of all ("x best"). Memory is the peak
above the start, less the gradients that are asked for.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, Batch
from loss_plot import plot
from torch import Tensor

from grpoenv_kernels.measure import Timing, clock, matmul_rate

PACKAGES = ["torch", "triton", "trl", "unsloth_zoo", "liger-kernel", "cut-cross-entropy"]
MIB = 1 << 20
# In the first run after a warm-up the heap may still grow.
WARM_UPS = 2
# Let glibc take everything from its heap and give nothing back.
KEEP_FREED = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"}


@dataclass(frozen=True)
class Case:
    """One workload: ``N x H x V``, dtype, frozen or not, dense or a GRPO batch."""

    rows: int
    width: int
    vocabulary: int
    dtype: str
    frozen: bool
    workload: str
    device: str

    @property
    def name(self) -> str:
        """The case in words."""
        head = "frozen" if self.frozen else "trainable"
        sizes = f"{self.rows}x{self.width}x{self.vocabulary}"
        return f"{self.workload} {sizes} {self.dtype} {head}"


def make_inputs(case: Case) -> dict[str, Tensor]:
    """Draw hidden states, weight and a batch of 8 completions in groups of 2."""
    generator = torch.Generator(case.device).manual_seed(5)
    drawn: dict[str, Any] = {"generator": generator, "device": case.device}
    shape, dtype = (8, case.rows // 8), getattr(torch, case.dtype)
    hidden = torch.randn(*shape, case.width, **drawn)
    weight = torch.randn(case.vocabulary, case.width, **drawn) / case.width**0.5
    hidden, weight = hidden.to(dtype), (2 * weight).to(dtype)
    ids = torch.randint(0, case.vocabulary, shape, **drawn)
    advantages = torch.randn(8, **drawn)
    mask, shift = torch.ones_like(ids), torch.zeros(shape, device=case.device)
    if case.workload == "grpo":
        # Skewed lengths with 40 % padding; 30 % of groups (one of four, and half of a second's
        # completions are short) have no advantage; 10 % of tokens are clipped.
        shares = [1.0, 0.95, 0.9, 0.7, 0.5, 0.35, 0.25, 0.15]
        lengths = torch.tensor(shares, device=case.device) * shape[1]
        mask = (torch.arange(shape[1], device=case.device)[None] < lengths[:, None]).long()
        advantages[[2, 3]] = 0.0
        clipped = torch.rand(shape, **drawn) < 0.1
        shift = 0.5 * clipped * advantages.sign()[:, None]
    old = log_probabilities(hidden, weight, ids) - shift
    return {
        "hidden": hidden, "weight": weight, "ids": ids, "mask": mask,
        "advantages": advantages, "old": old,
    }  # fmt: skip


def batch_of(inputs: dict[str, Tensor]) -> Batch:
    """The batch among the inputs."""
    return Batch(inputs["ids"], inputs["mask"], inputs["advantages"], inputs["old"])


def reference(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss and gradients in float64, by the closed form, a few rows at a time."""
    batch, weight = batch_of(inputs), inputs["weight"].double()
    hidden, ids = inputs["hidden"].flatten(0, 1), inputs["ids"].reshape(-1)
    pieces = torch.arange(len(ids), device=ids.device).split(128)
    by_hidden = torch.zeros(hidden.shape, device=ids.device)
    by_weight = torch.zeros_like(weight)
    loss = weight.new_zeros(())
    for rows in pieces:
        logp = torch.log_softmax(hidden[rows].double() @ weight.t(), -1)
        chosen = logp.gather(1, ids[rows, None])[:, 0].requires_grad_()
        valid = inputs["mask"].reshape(-1)[rows]
        part = (batch.terms(chosen, rows) * valid).sum()
        (grad,) = torch.autograd.grad(part, chosen)
        loss += part.detach()
        by_logits = logp.exp_().mul_(-grad[:, None])
        by_logits[torch.arange(len(rows), device=ids.device), ids[rows]] += grad
        by_hidden[rows] = (by_logits @ weight).float()
        by_weight.addmm_(by_logits.t(), hidden[rows].double())
    return {
        "loss": loss,
        "hidden": by_hidden.view_as(inputs["hidden"]),
        "weight": by_weight.float(),
    }


def counted_rows(inputs: dict[str, Tensor]) -> tuple[int, int]:
    """Rows that need a score, and of these the rows that need gradients as well."""
    scored = inputs["mask"].bool() & (inputs["advantages"][:, None] != 0)
    return int(scored.sum()), int((scored & ~_clipped(inputs)).sum())


def _clipped(inputs: dict[str, Tensor]) -> Tensor:
    logps = log_probabilities(inputs["hidden"], inputs["weight"], inputs["ids"])
    return (logps - inputs["old"]) * inputs["advantages"].sign()[:, None] > 0.3


def log_probabilities(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of ``ids`` ``[B, T]`` in float32, a few rows at a time."""
    chosen = (hidden.float() * weight[ids].float()).sum(-1)
    head, parts = weight.float().t(), hidden.flatten(0, 1).split(256)
    normaliser = torch.cat([(part.float() @ head).logsumexp(-1) for part in parts])
    return chosen - normaliser.view(ids.shape)


# --- one contender, in its own process ---------------------------------------------------------


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest point since :func:`reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def reset_peak(device: torch.device) -> int:
    """Forget the highest point and return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if "GLIBC_TUNABLES" not in os.environ:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def serve(name: str, folder: Path, case: Case, threads: int) -> None:
    """Run the contender once for every line of standard input and print what came of it.

    The first run is a warm-up, and the one whose results are held against the reference.
    """
    torch.set_num_threads(threads)
    device = torch.device(case.device)
    inputs = torch.load(folder / "inputs.pt", map_location=device)
    hidden = inputs["hidden"].requires_grad_()
    weight = inputs["weight"].requires_grad_(not case.frozen)
    leaves = [hidden] if case.frozen else [hidden, weight]
    loss = CONTENDERS[name](batch_of(inputs))
    for turn, _ in enumerate(sys.stdin):
        before, start = reset_peak(device), clock(device)
        value = loss(hidden, weight)
        grads = torch.autograd.grad(value, leaves)
        seconds = clock(device) - start
        outputs = sum(grad.nbytes for grad in grads)
        found = {"seconds": seconds, "beyond": max(peak_memory(device) - before - outputs, 0)}
        if turn == 0:
            best = torch.load(folder / "reference.pt", mmap=True)
            found["loss_error"] = error(value.detach(), best["loss"])
            for key, grad in zip(("hidden", "weight"), grads, strict=False):
                found[f"{key}_error"] = error(grad, best[key])
            del best  # its pages would count as memory of the next run
        del value, grads
        print(json.dumps(found), flush=True)


def error(found: Tensor, best: Tensor) -> float:
    """Relative error in the 2-norm, a slice at a time."""
    if not found.dim():
        return abs(float(found) - float(best)) / abs(float(best))
    pairs = zip(found.flatten(0, -2).split(4096), best.flatten(0, -2).split(4096), strict=True)
    wide = ((mine.double(), other.to(mine.device).double()) for mine, other in pairs)
    sums = [((mine - other).square().sum(), other.square().sum()) for mine, other in wide]
    return float((sum(one for one, _ in sums) / sum(two for _, two in sums)) ** 0.5)


class Contender:
    """A contender's process, and its runs so far."""

    def __init__(
        self, name: str, folder: Path, case: Case, threads: int, more: dict[str, str] | None = None
    ) -> None:
        self.name, self.runs, self.failure = name, list[dict[str, float]](), ""
        self.rates = list[float]()
        self.log = (folder / f"{name}.log").open("w+")
        command = [sys.executable, __file__, "--serve", name, "--folder", str(folder)]
        command += ["--case", json.dumps(vars(case)), "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            cwd=folder, env={**os.environ, **(more or {})},
        )  # fmt: skip

    def run(self, rate: float = 0.0) -> None:
        """Run once, unless it has failed before; ``rate`` is the one measured just before."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if self.failure:
            return
        try:
            print("run", file=self.process.stdin, flush=True)
            line = next((each for each in self.process.stdout if each.startswith("{")), "")
        except BrokenPipeError:
            line = ""
        if line:
            self.runs.append(json.loads(line))
            self.rates.append(rate)
        else:
            self.process.wait()
            self.log.seek(0)
            self.failure = (self.log.read().strip().splitlines() or ["no reason given"])[-1][:200]

    def end(self) -> None:
        """Let go of the process and its memory."""
        self.process.kill()
        self.process.wait()

    def beyond(self) -> float:
        """Most memory of a run after the warm-up, in MiB."""
        return max((run["beyond"] for run in self.runs[1:]), default=0.0) / MIB

    def ran_at(self, rate: float) -> None:
        """Take the rate that was measured after a run where it is the better one."""
        if self.rates:
            self.rates[-1] = max(self.rates[-1], rate)

    def result(self, flops: float, beyond: float) -> dict[str, Any]:
        """Summarise the runs that follow the warm-ups; ``flops`` is what the floor counts."""
        self.end()
        timed = self.runs[WARM_UPS:]
        if self.failure or not timed:
            return {"contender": self.name, "skipped": self.failure}
        timing = Timing.of([run["seconds"] for run in timed])
        over = Timing.of(
            [
                run["seconds"] * rate / flops
                for run, rate in zip(timed, self.rates[WARM_UPS:], strict=True)
            ]
        )
        errors = {key: value for key, value in self.runs[0].items() if key.endswith("error")}
        return {
            "contender": self.name,
            "seconds": timing.median,
            "least": timing.least,
            "most": timing.most,
            "floor": over.median,
            "floor_least": over.least,
            "floor_most": over.most,
            "beyond_mib": beyond,
            **errors,
        }


# --- the comparison ----------------------------------------------------------------------------


def compare(case: Case, names: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Run every contender on one case."""
    device = torch.device(case.device)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = make_inputs(case)
        torch.save(inputs, folder / "inputs.pt")
        best = reference(inputs)
        torch.save({key: value.cpu() for key, value in best.items()}, folder / "reference.pt")
        scored, graded = counted_rows(inputs)
        del best
        flat = inputs["hidden"].flatten(0, 1)
        rates = [matmul_rate(flat, inputs["weight"])]
        if device.type == "cuda":
            torch.cuda.empty_cache()
        given = folder, case, threads
        lone = {name: memory(Contender(name, *given)) for name in names if device.type == "cpu"}
        more = KEEP_FREED if lone else {}
        contenders = [Contender(name, *given, more) for name in names]
        for turn in turns(contenders, rounds + WARM_UPS, device):
            for contender in turn:
                contender.run(rates[-1])
                if device.type == "cpu":
                    rates.append(matmul_rate(flat, inputs["weight"], repeats=1))
                    contender.ran_at(rates[-1])
            if device.type == "cuda":
                turn[0].end()
                rates.append(matmul_rate(flat, inputs["weight"], repeats=2))
        products = scored + (1 if case.frozen else 2) * graded
        flops = 2 * case.width * case.vocabulary * products
        return {
            "case": vars(case),
            "matmul_tflops": max(rates) / 1e12,
            "slowest_tflops": min(rates) / 1e12,
            "floor_seconds": flops / max(rates),
            "rows": {"scored": scored, "graded": graded},
            "results": [
                each.result(flops, lone[each.name] if lone else each.beyond())
                for each in contenders
            ],
        }


def memory(contender: Contender) -> float:
    """Return what a contender takes beyond its outputs, in MiB, after one warm-up."""
    contender.run()
    contender.run()
    contender.end()
    return contender.beyond()


def turns(contenders: list[Contender], runs: int, device: torch.device) -> list[list[Contender]]:
    """Return who runs in each turn: all, or on a GPU one contender for all of its runs.

    A GPU has the memory for one of them only, and nobody else to share with.
    """
    if device.type == "cpu":
        return [contenders] * runs
    return [[contender] * runs for contender in contenders]


def machine(threads: int, device: str) -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    found: dict[str, Any] = {"python": platform.python_version(), "versions": versions}
    if device == "cuda":
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            check=True,
            text=True,
        )
        return {"gpu": torch.cuda.get_device_name(), "driver": driver.stdout.strip(), **found}
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {"cpu": model[0].split(":")[1].strip() if model else "?", "threads": threads, **found}


def show(outcome: dict[str, Any]) -> None:
    """Print one case as a table."""
    case = Case(**outcome["case"])
    print(f"\n{case.name}: {outcome['rows']}, floor {1000 * outcome['floor_seconds']:.0f} ms")
    print(
        f"{'':12} {'ms':>8} {'x floor':>8} {'spread':>10} {'x best':>7} {'MiB':>6}  errors: loss, dH, dW"
    )
    for each in outcome["results"]:
        if "skipped" in each:
            print(f"{each['contender']:12} skipped: {each['skipped']}")
            continue
        spread = f"{each['floor_least']:.2f}-{each['floor_most']:.2f}"
        best = each["seconds"] / outcome["floor_seconds"]
        errors = " ".join(f"{each[key]:.1e}" for key in each if key.endswith("error"))
        print(
            f"{each['contender']:12} {1000 * each['seconds']:8.0f} {each['floor']:8.2f} "
            f"{spread:>10} {best:7.2f} {each['beyond_mib']:6.0f}  {errors}"
        )


def main() -> None:
    """Run, serve one contender, or plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", nargs="*", default=["1024x512x32768", "1024x512x151936"])
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--heads", nargs="*", default=["frozen", "trainable"])
    parser.add_argument("--workloads", nargs="*", default=["dense", "grpo"])
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write or add the results")
    parser.add_argument("--plot", type=Path, help="draw earlier results and do nothing else")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plot:
        plot(options.plot, list(CONTENDERS))
        return
    if options.serve:
        case = Case(**json.loads(options.case))
        serve(options.serve, options.folder, case, options.threads)
        return
    report = {"machine": machine(options.threads, options.device), "outcomes": list[Any]()}
    if options.json and options.json.exists():
        report["outcomes"] = earlier_outcomes(options.json, report["machine"])
    print(json.dumps(report["machine"]))
    for case in cases(options):
        outcome = compare(case, options.contenders, options.rounds, options.threads)
        show(outcome)
        others = [each for each in report["outcomes"] if each["case"] != outcome["case"]]
        report["outcomes"] = [*others, outcome]
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")


def earlier_outcomes(path: Path, here: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the outcomes of an earlier run on the same machine with the same packages."""
    report: dict[str, Any] = json.loads(path.read_text())
    if report["machine"] != here:
        sys.exit(f"{path} has results of another machine or of other packages")
    outcomes: list[dict[str, Any]] = report["outcomes"]
    return outcomes


def cases(options: argparse.Namespace) -> list[Case]:
    """Every combination that was asked for."""
    return [
        Case(*map(int, sizes.split("x")), dtype, head == "frozen", workload, options.device)
        for sizes in options.sizes
        for dtype in options.dtypes
        for workload in options.workloads
        for head in options.heads
    ]


if __name__ == "__main__":
    main()
