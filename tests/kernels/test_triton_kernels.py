from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

CASES = Path(__file__).with_name("triton_cases.py")


def run_python(*arguments: str, interpret: bool = False) -> str:
    # Triton 3.9 warns unless told whether to fuse multiplications and additions.
    environment = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1"}
    environment["TRITON_INTERPRET"] = "1" if interpret else "0"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=CASES.parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("device", ["interpreter", "gpu"])
def test_the_kernels_do_what_plain_torch_does(device: str) -> None:
    if device == "gpu" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    run_python("-m", "pytest", "-q", str(CASES), interpret=device == "interpreter")


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from grpoenv_kernels import triton_kernels

INTEGERS = {"width": "i32", "start": "i32", "product_stride": "i64", "weights_stride": "i64",
            "out_stride": "i64", "stride": "i64", "targets": "*i64"}
OPERANDS = ("weights", "out", "values")
FLAGS = {"FOLDED": False, "HAS_BIAS": True, "HAS_CAP": True, "ENTROPY": True, "KEEP": True,
         "TILTED": True, "LOWEST": -1.7e38, "SLACK": 8, "BLOCK": 4096}

for kernel in (triton_kernels.fold, triton_kernels.gradient, triton_kernels.scale):
    names = kernel.arg_names
    types = {name: INTEGERS.get(name, "*bf16" if name in OPERANDS else "*fp32") for name in names}
    types |= {name: "constexpr" for name in names if name in FLAGS}
    flags = {name: value for name, value in FLAGS.items() if name in names}
    source = ASTSource(kernel, signature=types, constexprs=flags)
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    compiled = triton.compile(source, target=target, options={"num_warps": 8})
    spilled, doubled = "st.local" in compiled.asm["ptx"], "f64" in compiled.asm["ttir"]
    print(kernel.__name__, len(compiled.asm["cubin"]) > 0, spilled, doubled)
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_for_a_gpu_that_is_not_there(capability: str) -> None:
    lines = run_python("-c", COMPILE, capability).splitlines()
    assert lines == [f"{name} True False False" for name in ("fold", "gradient", "scale")]


def test_importing_and_using_the_package_on_a_cpu_loads_no_compiler_and_starts_no_gpu() -> None:
    code = """
import sys, torch
from grpoenv_kernels import linear_logprob
hidden = torch.ones(2, 3, requires_grad=True)
linear_logprob(hidden, torch.ones(4, 3), torch.tensor([1, 2])).logps.sum().backward()
print('triton' in sys.modules, 'torch._dynamo' in sys.modules, torch.cuda.is_initialized())
"""
    assert run_python("-c", code).split() == ["False", "False", "False"]
