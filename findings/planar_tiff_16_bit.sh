#!/usr/bin/env bash
# Pillow and OpenCV read a TIFF of 16 bits whose colours lie in planes of their own as noise, without an error.
#
# What one would guess: PlanarConfiguration 2 is a part of TIFF 6.0 that both read in 8 bits, so in 16 bits they either
# read it too or refuse it.
# What happens: with 8 bits both give the picture. With 16 bits Pillow gives RGB of 8 bits, and OpenCV of 16, that have
# next to nothing to do with the picture.
# What to do: read TIFF of more than 8 bits with tifffile, which is exact.
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pillow==12.0.0 opencv-python-headless==4.10.0.84 numpy==1.26.4 tifffile==2025.5.10
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import struct

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image

height, width = 48, 64
row, column = np.mgrid[0:height, 0:width]
# A smooth picture: red grows to the right, green downwards, blue falls to the right.
truth = np.stack([column / width, row / height, 1 - column / width], axis=-1)


def write(path, values, bits):
    """By the words of TIFF 6.0: one strip for each plane, not compressed."""
    planes = [values[..., channel].astype("<u2" if bits == 16 else "u1").tobytes() for channel in range(3)]
    data = b"".join(planes)
    end = 8 + len(data)
    words = struct.pack("<3H", bits, bits, bits)
    offsets = struct.pack("<3I", *(8 + index * len(planes[0]) for index in range(3)))
    counts = struct.pack("<3I", *(len(plane) for plane in planes))
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, end), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, end + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, end + 18), (284, 3, 1, 2)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, end + 30) + data + words + offsets + counts + directory)


def error(values):
    """Mean difference to the truth, of full intensity 1."""
    values = np.asarray(values)
    return float(np.abs(values / np.iinfo(values.dtype).max - truth).mean())


print("Pillow", PIL.__version__, "| OpenCV", cv2.__version__, "| tifffile", tifffile.__version__)
errors = {}
for bits in (8, 16):
    write("picture.tif", np.rint(truth * (2**bits - 1)), bits)
    errors[bits] = {
        "Pillow": error(Image.open("picture.tif")),
        "OpenCV": error(cv2.imread("picture.tif", cv2.IMREAD_UNCHANGED)[..., ::-1]),
        "tifffile": error(np.moveaxis(tifffile.imread("picture.tif"), 0, -1)),
    }
    for name, value in errors[bits].items():
        print(f"{bits:2} bits, {name:8}: mean error {value:.4f} of 1")
right = max(errors[8].values()) < 0.01 and errors[16]["tifffile"] < 0.01
raise SystemExit(not (right and errors[16]["Pillow"] > 0.1 and errors[16]["OpenCV"] > 0.1))
PYTHON
