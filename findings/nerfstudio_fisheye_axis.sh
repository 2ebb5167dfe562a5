#!/usr/bin/env bash
# Nerfstudio's fish-eye camera gives NaN for the pixel whose middle is the principal point.
#
# What one would guess: that pixel looks along the camera's axis, as the pixels around it nearly do.
# What happens: its direction is 0/0 = NaN, and nothing says so; with an odd width and height and the principal point in
# the middle, it is the middle pixel of every picture. One such ray makes a training loss NaN.
# What to do: put the axis there yourself, or move the principal point by a thousandth of a pixel.
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip="$folder/env/bin/pip"
# What its cameras import, and not what its trainer does.
"$pip" install --quiet torch==2.13.0 numpy==1.26.4 viser==0.2.7 jaxtyping==0.2.38 opencv-python-headless==4.10.0.84 rich
"$pip" install --quiet --no-deps nerfstudio==1.1.5
"$folder/env/bin/python" - <<'PYTHON' 2>&1 | grep -v Warning
import warnings
from importlib.metadata import version

import torch

warnings.filterwarnings("ignore")
from nerfstudio.cameras.cameras import Cameras, CameraType

axes = {}
for center in (7.5, 7.501):
    camera = Cameras(torch.eye(4)[None, :3], 7.0, 7.0, center, center, 15, 15, camera_type=CameraType.FISHEYE)
    directions = camera.generate_rays(camera_indices=0, keep_shape=True).directions
    axes[center] = directions[7, 7]
    lost = torch.isnan(directions).any(dim=-1).nonzero().tolist()
    print(f"principal point ({center}, {center}): middle pixel {directions[7, 7].tolist()}, NaN at {lost}")
print("nerfstudio", version("nerfstudio"))
so = bool(torch.isnan(axes[7.5]).all()) and torch.allclose(axes[7.501], torch.tensor([0.0, 0.0, -1.0]), atol=1e-3)
raise SystemExit(not so)
PYTHON
