#!/usr/bin/env bash
# trimesh ignores `normalized` of glTF accessors. Positions as integers that stand for [-1, 1] (KHR_mesh_quantization, what
# `gltfpack` and `gltf-transform quantize` write) come out 32,767 times too large; nothing is said.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check trimesh==5.2.0 numpy==1.26.4
cd "$folder"

cat > check.py <<'PYTHON'
import json, struct
import numpy, trimesh

quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
triangles = numpy.array([t for q in quads for t in (q[:3], (q[0], q[2], q[3]))], "<u2").tobytes()
corners = numpy.zeros((8, 4), "<i2")  # rows of 8 bytes, as the format wants
corners[:, :3] = [(x, y, z) for x in (-32767, 32767) for y in (-32767, 32767) for z in (-32767, 32767)]
position = {"bufferView": 0, "componentType": 5122, "normalized": True, "count": 8, "type": "VEC3",
            "min": [-32767] * 3, "max": [32767] * 3}
scene = {
    "asset": {"version": "2.0"}, "extensionsUsed": ["KHR_mesh_quantization"],
    "extensionsRequired": ["KHR_mesh_quantization"], "scene": 0, "scenes": [{"nodes": [0]}],
    "nodes": [{"mesh": 0, "scale": [0.5, 1.0, 1.5]}],
    "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
    "accessors": [position, {"bufferView": 1, "componentType": 5123, "count": 36, "type": "SCALAR"}],
    "bufferViews": [{"buffer": 0, "byteLength": 64, "byteStride": 8},
                    {"buffer": 0, "byteOffset": 64, "byteLength": 72}],
    "buffers": [{"byteLength": 136}],
}
text = json.dumps(scene).encode()
text += b" " * (-len(text) % 4)
data = corners.tobytes() + triangles
head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(data))
open("box.glb", "wb").write(head + struct.pack("<I4s", len(text), b"JSON") + text
                            + struct.pack("<I4s", len(data), b"BIN\0") + data)

size = trimesh.load("box.glb").to_geometry().extents
print(f"trimesh {trimesh.__version__}: the box is {size.round(3).tolist()} large; the file's is 1 x 2 x 3")
raise SystemExit(0 if numpy.allclose(size, 32767 * numpy.array([1, 2, 3])) else 1)
PYTHON
env/bin/python check.py
