"""Compile a trivial Triton kernel, and run it where there is a GPU; print what came of it as JSON.

Runs in the target interpreter. The argument is the compute capability to compile for, such as 80.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path

SOURCE = """
import triton
import triton.language as tl

@triton.jit
def double(x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)
"""


def compile_kernel(capability: int) -> "dict[str, object]":
    """Return the size of the machine code, and whether the kernel ran and was right."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "grpoenv_kernel.py").write_text(SOURCE, encoding="utf-8")
        sys.path.insert(0, folder)
        kernel = importlib.import_module("grpoenv_kernel").double
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            x = torch.ones(100, device="cuda")
            kernel[(1,)](x, 100, BLOCK=128)
            return {"ran": True, "right": bool((x == 2).all())}
        triton = importlib.import_module("triton")
        target = importlib.import_module("triton.backends.compiler").GPUTarget
        source = importlib.import_module("triton.compiler").ASTSource
        compiled = triton.compile(
            source(kernel, {"x": "*fp32", "n": "i32"}, {"BLOCK": 128}),
            target=target("cuda", capability, 32),
        )
        return {"ran": False, "cubin_bytes": len(compiled.asm["cubin"])}


if __name__ == "__main__":
    print(json.dumps(compile_kernel(int(sys.argv[1]))))
