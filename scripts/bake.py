"""Run ``finer export``, or ``finer view``, from a clone of the repository."""

import sys

from finer_nerfstudio.cli.main import main

if __name__ == "__main__":
    main(sys.argv[1:] if sys.argv[1:2] == ["view"] else ["export", *sys.argv[1:]])
