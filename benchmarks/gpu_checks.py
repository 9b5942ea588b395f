"""Steps of benchmarks/gpu.py that are no command of their own; each prints one JSON object.

python benchmarks/gpu_checks.py fallback cuda   # a kernel that fails: the slow loss stands in
python benchmarks/gpu_checks.py cost cuda       # what the self-test adds to the import
python benchmarks/gpu_checks.py probe cuda      # this machine, without what is private
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def batch(device: str) -> tuple[Any, ...]:
    """Draw arguments of ``grpo_loss``."""
    import torch

    generator = torch.Generator().manual_seed(7)
    hidden, weight = (torch.randn(*size, generator=generator) for size in ((2, 5, 16), (50, 16)))
    ids, mask = torch.randint(0, 50, (2, 5), generator=generator), torch.ones(2, 5)
    tensors = (hidden, weight, ids, mask, torch.tensor([1.0, -0.5]))
    placed = [tensor.to(device) for tensor in tensors]
    return (placed[0].requires_grad_(), placed[1].requires_grad_(), *placed[2:])


def broken(*_: object, **__: object) -> None:
    """Fail as a kernel does that was built for another card."""
    raise RuntimeError("no kernel image is available for execution on the device")


def fallback(device: str) -> dict[str, Any]:
    """Break the kernel and call the loss: once for a warning, and again without one."""
    import torch

    import grpoenv_runtime
    from grpoenv_kernels import softmax_tile
    from grpoenv_runtime import fast, self_test_run

    given = batch(device)
    sound = grpoenv_runtime.grpo_loss(*given, loss_type="dapo", num_items_in_batch=10)
    expected = torch.autograd.grad(sound, given[:2])
    if device == "cpu":
        from grpoenv_kernels import passes, stored, streamed

        for module in (softmax_tile, passes, stored, streamed):
            module.fold_tile = broken  # type: ignore[attr-defined]
    else:
        from grpoenv_kernels import triton_tile

        triton_tile.fold_tile = broken  # type: ignore[assignment]
    self_test_run._test_at_first_use()
    found = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = grpoenv_runtime.grpo_loss(*given, loss_type="dapo", num_items_in_batch=10)
            grads = torch.autograd.grad(loss, given[:2])
        pairs = zip((loss, *grads), (sound, *expected), strict=True)
        found.append({
            "warnings": [str(each.message) for each in caught],
            "largest_difference": max(float((a - b).abs().max()) for a, b in pairs),
        })  # fmt: skip
    slow = fast.grpo_compute_loss is self_test_run._slow_stand_in
    first, second = found
    holds = slow and bool(first["warnings"]) and not second["warnings"]
    near = all(each["largest_difference"] < 1e-5 for each in found)
    return {"ok": holds and near, "device": device, "slow_stands_in": slow, "calls": found}


IMPORT = """
import json, sys, time
import torch
start = time.perf_counter()
import grpoenv_runtime
imported = time.perf_counter() - start
sys.path.insert(0, sys.argv[1])
from gpu_checks import batch
given = batch(sys.argv[2])
(given[0].sum() + given[1].sum()).backward()  # the device and autograd are awake
start = time.perf_counter()
calls = []
for _ in range(2):
    start = time.perf_counter()
    grpoenv_runtime.grpo_loss(*given, loss_type="grpo").item()
    calls.append(1000 * (time.perf_counter() - start))
print(json.dumps({"import_ms": 1000 * imported, "first_call_ms": calls[0], "second_call_ms": calls[1]}))
"""


def cost(device: str, repeats: int = 5) -> dict[str, Any]:
    """Time imports and first calls: without a memory of a passed test, and with one."""
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("cold", "warm"):
                done = subprocess.run(
                    [sys.executable, "-c", IMPORT, str(ROOT / "benchmarks"), device],
                    env={**os.environ, "XDG_CACHE_HOME": cache, "TRITON_CACHE_DIR": cache},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                runs[kind].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        kind: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for kind, found in runs.items()
    }
    return {"device": device, "repeats": repeats, "medians": medians, "runs": runs}


def probe(device: str) -> dict[str, Any]:
    """Probe this machine; paths become those of nobody, and only packages of a stack stay."""
    done = subprocess.run(
        [sys.executable, "-m", "grpoenv", "probe", "--json"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return public(json.loads(done.stdout), locked_packages())


def locked_packages() -> set[str]:
    """Return the names of all packages that a lock of the matrix has."""
    lines = [
        line
        for path in (ROOT / "lockfiles").rglob("*.txt")
        for line in path.read_text().splitlines()
    ]
    return {line.partition("==")[0] for line in lines if "==" in line and line[0].isalnum()}


def public(found: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Return a probe without what says whose machine it is."""
    interpreter = dict(found["interpreter"])
    library = f"/venv/lib/python{'.'.join(interpreter['version'].split('.')[:2])}/site-packages"
    places = {"executable": "/venv/bin/python", "scripts": "/venv/bin", "site_folders": [library]}
    places |= dict.fromkeys(("prefix", "data"), "/venv")
    places |= dict.fromkeys(("purelib", "platlib"), library)
    packages = {name: each for name, each in found["packages"].items() if name in known}
    loaded = found.get("loaded")
    kept = None if loaded is None else [name for name in loaded if name in known]
    return {
        **found,
        "interpreter": {**interpreter, **places},
        "packages": packages,
        "loaded": kept,
        "wheels": [],
    }


CHECKS = {"fallback": fallback, "cost": cost, "probe": probe}


def main() -> int:
    """Run the named check; 0 unless it says that it does not hold."""
    start, (name, device) = time.monotonic(), sys.argv[1:]
    found = CHECKS[name](device)
    print(json.dumps(found, indent=1))
    print(f"{name} took {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0 if found.get("ok", True) else 1


if __name__ == "__main__":
    raise SystemExit(main())
