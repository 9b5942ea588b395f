"""Let torch and triton report an NVIDIA A100 on a machine that has no GPU.

unsloth before 2026.8.16 refuses to be imported without a GPU and has no switch that helps, and the
switch of later ones leaves trl's trainers as they are. With this an import runs the code that it
runs on an A100, as far as no kernel is launched and no memory is asked for; what a run under it
shows is the import, and nothing of a GPU.
"""

import contextlib
import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

__all__ = ["made_up_gpu"]

_NAME = "NVIDIA A100-SXM4-40GB"
_CAPABILITY = (8, 0)
_MEMORY = 40 * 2**30
_PROPERTIES = SimpleNamespace(
    name=_NAME,
    major=_CAPABILITY[0],
    minor=_CAPABILITY[1],
    total_memory=_MEMORY,
    multi_processor_count=108,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    warp_size=32,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=166912,
    shared_memory_per_multiprocessor=167936,
    L2_cache_size=41943040,
    is_integrated=0,
    is_multi_gpu_board=0,
    gcnArchName="",
)
_ANSWERS: dict[str, Any] = {
    "_lazy_init": None,
    "current_device": 0,
    "current_stream": SimpleNamespace(cuda_stream=0),
    "device_count": 1,
    "empty_cache": None,
    "get_arch_list": ["sm_80", "sm_90"],
    "get_device_capability": _CAPABILITY,
    "get_device_name": _NAME,
    "get_device_properties": _PROPERTIES,
    "init": None,
    "is_available": True,
    "is_bf16_supported": True,
    "is_initialized": False,
    "manual_seed": None,
    "manual_seed_all": None,
    "max_memory_allocated": 0,
    "max_memory_reserved": 0,
    "mem_get_info": (_MEMORY, _MEMORY),
    "memory_allocated": 0,
    "memory_reserved": 0,
    "set_device": None,
    "synchronize": None,
}


@contextlib.contextmanager
def made_up_gpu() -> Iterator[None]:
    """Replace, while it lasts, what torch and triton say of the GPUs in this process."""
    torch = importlib.import_module("torch")
    with contextlib.ExitStack() as stack:
        for module in (torch.cuda, torch.cuda.memory):
            there: dict[str, Any] = {
                name: lambda *_, _value=value, **__: _value
                for name, value in _ANSWERS.items()
                if hasattr(module, name)
            }
            stack.enter_context(mock.patch.multiple(module, **there))
        stream = mock.patch.object(torch._C, "_cuda_getCurrentRawStream", lambda *_: 0, create=True)
        stack.enter_context(stream)
        stack.enter_context(_made_up_driver())
        yield


@contextlib.contextmanager
def _made_up_driver() -> Iterator[None]:
    """Give triton, where there is one, a driver of that GPU."""
    try:
        driver = importlib.import_module("triton.runtime.driver").driver
        compiler = importlib.import_module("triton.backends.compiler")
    except ImportError:
        yield
        return
    before = vars(driver).get("_active", vars(driver).get("active"))  # the name since triton 3.5
    driver.set_active(_driver(compiler.GPUTarget("cuda", 10 * _CAPABILITY[0] + _CAPABILITY[1], 32)))
    try:
        with mock.patch("triton.backends.nvidia.driver.libcuda_dirs", list, create=True):
            yield
    finally:
        driver.set_active(before)


def _driver(target: Any) -> SimpleNamespace:
    properties = {
        "max_shared_mem": _PROPERTIES.shared_memory_per_block_optin,
        "multiprocessor_count": _PROPERTIES.multi_processor_count,
        "warpSize": _PROPERTIES.warp_size,
        "max_num_regs": _PROPERTIES.regs_per_multiprocessor,
    }
    torch = importlib.import_module("torch")
    return SimpleNamespace(
        get_current_target=lambda: target,
        get_current_device=lambda: 0,
        get_current_stream=lambda *_: 0,
        get_device_capability=lambda *_: _CAPABILITY,
        get_benchmarker=lambda: lambda kernel, **_: 0.0,
        get_device_interface=lambda: torch.cuda,
        get_active_torch_device=lambda: torch.device("cuda", 0),
        utils=SimpleNamespace(get_device_properties=lambda *_: properties),
    )
