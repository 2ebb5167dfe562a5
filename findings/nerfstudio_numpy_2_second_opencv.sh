#!/usr/bin/env bash
# Nerfstudio 1.1.5 beside a package that needs NumPy 2: pip installs two OpenCVs into one folder.
#
# What one would guess: Nerfstudio pins opencv-python-headless 4.10.0.84, so `cv2` is that version, or pip says that the
# wishes do not meet.
# What happens: its nuscenes-devkit has no upper bound here and NumPy 2 is forbidden by the newer of its versions only.
# Asked for NumPy 2, the resolver goes back to an old one, which asks for opencv-python without a version. Both
# distributions own the folder `cv2`; `pip check` is content, and the version imported is not the one that was pinned.
# (From plyfile 1.1.4 on, reading a PLY is enough to need NumPy 2.)
# What to do: ask for nuscenes-devkit>=1.2 beside Nerfstudio; NumPy stays below 2.
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip=("$folder/env/bin/pip" --disable-pip-version-check)
"${pip[@]}" install --quiet "pip==25.3"

echo "What pip would install for nerfstudio==1.1.5 fpsample<1 numpy>=2 plyfile==1.1.5:"
"${pip[@]}" install --quiet --dry-run --report "$folder/report.json" \
  "nerfstudio==1.1.5" "fpsample<1" "numpy>=2" "plyfile==1.1.5"
"$folder/env/bin/python" - "$folder/report.json" <<'PYTHON'
import json
import sys
from pathlib import Path

chosen = {item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(Path(sys.argv[1]).read_text())["install"]}
names = ("nerfstudio", "numpy", "nuscenes-devkit", "opencv-python", "opencv-python-headless")
for name in names:
    print(f"  {name} {chosen.get(name, '(not installed)')}")
sys.exit(not ("opencv-python" in chosen and "opencv-python-headless" in chosen))
PYTHON

"${pip[@]}" install --quiet --no-deps opencv-python-headless==4.10.0.84 opencv-python==5.0.0.93 numpy==2.4.6
"${pip[@]}" check
"$folder/env/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import packages_distributions, version

import cv2

print("cv2 is owned by", *sorted(set(packages_distributions()["cv2"])))
print("opencv-python-headless, which Nerfstudio pins:", version("opencv-python-headless"))
print("cv2.__version__:", cv2.__version__)
sys.exit(cv2.__version__ == version("opencv-python-headless").rsplit(".", 1)[0])
PYTHON
