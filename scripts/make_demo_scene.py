"""Run ``finer demo-scene`` from a clone of the repository."""

import sys

from finer_nerfstudio.cli.main import main

if __name__ == "__main__":
    main(["demo-scene", *sys.argv[1:]])
