#!/usr/bin/env bash
# trimesh counts relative (negative) indices of OBJ faces from the end of the file. The format counts them from the face:
# -1 is the last vertex before it. Of two boxes, each followed by its faces, both become the second one; nothing is said.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check trimesh==5.2.0 numpy==1.26.4
cd "$folder"

cat > check.py <<'PYTHON'
import numpy, trimesh

quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
lines = []
for shift in (0, 5):  # boxes of side 2 around x = 0 and x = 5
    lines += [f"v {x + shift} {y} {z}" for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    lines += ["f " + " ".join(str(i - 8) for i in quad) for quad in quads]
open("two.obj", "w").write("\n".join(lines) + "\n")

mesh = trimesh.load("two.obj", process=False)
used = mesh.vertices[numpy.unique(mesh.faces)]
low, high = used[:, 0].min(), used[:, 0].max()
print(f"trimesh {trimesh.__version__}: faces reach from x = {low:g} to {high:g}; the file's reach from -1 to 6")
raise SystemExit(0 if (low, high) == (4, 6) else 1)
PYTHON
env/bin/python check.py
