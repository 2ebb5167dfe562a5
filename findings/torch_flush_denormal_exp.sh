#!/usr/bin/env bash
# torch.set_flush_denormal(True) does not reach torch.exp on x86 processors.
#
# What one would guess: with denormals flushed, torch.exp(-100) is 0, and as fast as torch.exp(-10).
# What happens: products of denormal numbers are flushed, but torch.exp (and sigmoid's and softmax's exponentials) still
# gives the denormal number 3.8e-44, and takes many times as long for it as for ordinary results.
# What to do: bound the exponent from below before torch.exp, and set what lies beyond to zero.
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6
"$folder/env/bin/python" - <<'PYTHON'
import time

import torch

torch.set_num_threads(1)
assert torch.set_flush_denormal(True), "this processor cannot flush denormals"


def milliseconds(value: float) -> float:
    exponents = torch.full((1_000_000,), value)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.exp(exponents)
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[2]


# Bits, since printing a denormal number flushes it.
product = torch.full((1000,), 1e-30).mul(1e-14).view(torch.int32)
exponential = torch.exp(torch.full((1000,), -100.0)).view(torch.int32)
print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
print("1e-30 * 1e-14 flushed to zero:", bool((product == 0).all()))
print("exp(-100) flushed to zero:    ", bool((exponential == 0).all()))
print(f"a million of exp(-10): {milliseconds(-10.0):.2f} ms, of exp(-100): {milliseconds(-100.0):.2f} ms")
raise SystemExit(not (bool((product == 0).all()) and bool((exponential != 0).all())))
PYTHON
