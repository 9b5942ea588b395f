"""Let torch and triton report an NVIDIA A100 on a machine that has no GPU.

Releases of unsloth before its zoo 2026.6.1 refuse to be imported without a GPU, and have no switch
for that. With this an import runs the code that it runs on an A100, as far as no kernel is launched
and no memory is asked for; what a run under it shows is the import, and nothing of a GPU.
"""

import importlib
from types import SimpleNamespace
from typing import Any

__all__ = ["pretend"]

_NAME = "NVIDIA A100-SXM4-40GB"
_CAPABILITY = (8, 0)
_MEMORY = 40 * 2**30


def pretend() -> None:
    """Replace, in this process, what torch and triton say of the GPUs."""
    torch = importlib.import_module("torch")
    properties = SimpleNamespace(
        name=_NAME,
        major=_CAPABILITY[0],
        minor=_CAPABILITY[1],
        total_memory=_MEMORY,
        multi_processor_count=108,
        max_threads_per_multi_processor=2048,
        regs_per_multiprocessor=65536,
        warp_size=32,
        shared_memory_per_block_optin=166912,
        is_integrated=0,
        gcnArchName="",
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": _NAME,
        "get_device_capability": _CAPABILITY,
        "get_device_properties": properties,
        "is_bf16_supported": True,
        "mem_get_info": (_MEMORY, _MEMORY),
        "get_arch_list": ["sm_80", "sm_90"],
        "empty_cache": None,
        "synchronize": None,
        "manual_seed": None,
        "manual_seed_all": None,
        "max_memory_reserved": 0,
        "max_memory_allocated": 0,
        "memory_reserved": 0,
        "memory_allocated": 0,
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, lambda *_, _value=value, **__: _value)
    torch.cuda.memory.mem_get_info = torch.cuda.mem_get_info
    torch._C._cuda_getCurrentRawStream = lambda *_: 0
    _pretend_to_triton()


def _pretend_to_triton() -> None:
    try:
        driver = importlib.import_module("triton.runtime.driver").driver
        compiler = importlib.import_module("triton.backends.compiler")
    except ImportError:
        return
    target = compiler.GPUTarget("cuda", 10 * _CAPABILITY[0] + _CAPABILITY[1], 32)
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda *_: 0,
            get_device_capability=lambda *_: _CAPABILITY,
            get_benchmarker=lambda: lambda kernel, **_: 0.0,
            get_device_interface=lambda: importlib.import_module("torch").cuda,
            get_active_torch_device=lambda: importlib.import_module("torch").device("cuda", 0),
            utils=SimpleNamespace(
                get_device_properties=lambda *_: {
                    "max_shared_mem": 166912,
                    "multiprocessor_count": 108,
                    "warpSize": 32,
                    "max_num_regs": 65536,
                }
            ),
        )
    )
