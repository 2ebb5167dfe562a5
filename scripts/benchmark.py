"""Run ``finer benchmark`` from a clone of the repository."""

import sys

from finer_nerfstudio.cli.main import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
