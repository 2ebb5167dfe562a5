"""How fast are the networks, beside plain PyTorch, beside ReLU, and beside their matrix products alone?

    finer benchmark
    finer benchmark --cases image --methods finer-sine finer-wavelet --repeats 9

Four programs take turns in one process and on the same numbers: this package; a plain reference, written from the
formulas as one would write them in PyTorch; the plain network with ReLU, of as many real parameters; and the bare
matrix products. Outputs and gradients of the first two are compared before anything is timed. Times mean little beyond
the machine they were taken on, and not much on it, so that ratios of medians are what to read.
"""

from __future__ import annotations

from finer_nerfstudio.benchmarks.run import Benchmark, run_benchmark

OPTIONS = Benchmark


def run(command: Benchmark) -> None:
    """Measure, and print the table."""
    run_benchmark(command)
