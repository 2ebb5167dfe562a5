"""Run ``finer fit-image`` from a clone of the repository."""

import sys

from finer_nerfstudio.cli.main import main

if __name__ == "__main__":
    main(["fit-image", *sys.argv[1:]])
