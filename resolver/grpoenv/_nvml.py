"""Print what NVML tells about the GPUs, as JSON; run as a child by ``grpoenv.gpu``."""

import json

import pynvml  # type: ignore[import-untyped]


def describe() -> dict[str, object]:
    """Return driver, CUDA (as 12040 for 12.4) and devices, or the error that NVML gave."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "cuda": pynvml.nvmlSystemGetCudaDriverVersion_v2(),
            "devices": [
                {
                    "name": pynvml.nvmlDeviceGetName(handle),
                    "capability": pynvml.nvmlDeviceGetCudaComputeCapability(handle),
                    "memory_mib": pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20,
                }
                for handle in handles
            ],
        }
    except pynvml.NVMLError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    print(json.dumps(describe()))
