"""Run ``finer gpu-queue`` from a clone of the repository."""

import sys

from finer_nerfstudio.cli.main import main

if __name__ == "__main__":
    main(["gpu-queue", *sys.argv[1:]])
