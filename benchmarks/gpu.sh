#!/bin/sh
# Parity, speed and the comparison with other fused heads on a CUDA machine, in under ten minutes.
# Run it in the repository's root, in an environment with `pip install -e '.[bench]'`.
# Writes smoke.json, losses.json and losses.png into the folder given (benchmarks/results if none).
set -eu
out=${1:-benchmarks/results}
mkdir -p "$out"
export TRITON_DEFAULT_FP_FUSION=1
timeout 60 python -m grpoenv_kernels --json >"$out/smoke.json" || { cat "$out/smoke.json"; exit 1; }
cat "$out/smoke.json"
if python -c "import pytest" 2>/dev/null; then
  timeout 120 python -m pytest -q tests/kernels/triton_cases.py
fi
timeout 210 python benchmarks/losses.py --device cuda --dtypes bfloat16 --rounds 3 \
  --sizes 16384x4096x128256 16384x4096x151936 --json "$out/losses.json" || true
timeout 150 python benchmarks/losses.py --device cuda --dtypes bfloat16 --rounds 2 --workloads dense \
  --sizes 65536x4096x151936 --contenders ours trl unsloth_zoo --json "$out/losses-long.json" || true
python benchmarks/losses.py --plot "$out/losses.json"
