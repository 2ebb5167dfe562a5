"""How long the first training step of a new process takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

FIRST_STEP = """
import time
import torch
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.inr.methods import preset
begin = time.perf_counter()
row = preset("{method}", "image")
network = CoordinateNetwork(2, 3, width=256, depth=4, activation=row.activation, bias_range=row.bias_range)
for points in (16_384, 1_000, 9_999):
    network(torch.rand(points, 2)).square().mean().backward()
    print(time.perf_counter() - begin)
    begin = time.perf_counter()
"""


def first_step(method: str) -> dict[str, float]:
    """Seconds until the first training step is done in a new process, without and with kernels built before.

    A step is of the 16,384 points of a 128 x 128 image. The two after it have other numbers of points.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "CUDA_VISIBLE_DEVICES": ""}
        found = []
        for _ in range(2):
            command = [sys.executable, "-c", FIRST_STEP.format(method=method)]
            output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            found.append([float(line) for line in output.split()])
    new, again = found
    return {"nothing_built": new[0], "built_before": again[0], "other_batch_sizes": max(*new[1:], *again[1:])}
