#!/usr/bin/env bash
# Nerfstudio's path between views has frames of another size than the views, with no word.
#
# What one would guess: `ns-render interpolate` draws frames as large as the pictures that it flies between.
# What happens: the path forgets the sizes, and a camera without one is twice its principal point wide and high, cut to
# whole pixels: views of 64x42 pixels with the axis at (30.7, 20.3) become frames of 61x40. An odd one makes a video of
# yuv444p, which many players do not open.
# What to do: cut the odd line off afterwards, by
#   ffmpeg -i flight.mp4 -vf "crop=trunc(iw/2)*2:trunc(ih/2)*2" -pix_fmt yuv420p even.mp4
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip="$folder/env/bin/pip"
# What its cameras import, and not what its trainer does.
"$pip" install --quiet torch==2.13.0 numpy==1.26.4 viser==0.2.7 jaxtyping==0.2.38 opencv-python-headless==4.10.0.84 rich
"$pip" install --quiet splines==0.3.3
"$pip" install --quiet --no-deps nerfstudio==1.1.5
"$folder/env/bin/python" - <<'PYTHON' 2>&1 | grep -v Warning
import warnings
from importlib.metadata import version

import torch

warnings.filterwarnings("ignore")
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path
from nerfstudio.cameras.cameras import Cameras

poses = torch.eye(4)[None, :3].repeat(2, 1, 1)
poses[1, 0, 3] = 1.0
views = Cameras(poses, 50.0, 50.0, 30.7, 20.3, width=64, height=42)
path = get_interpolated_camera_path(views, steps=3, order_poses=False)
sizes = [(int(some.image_width[0]), int(some.image_height[0])) for some in (views, path)]
print(f"views of {sizes[0][0]}x{sizes[0][1]} pixels, frames between them of {sizes[1][0]}x{sizes[1][1]}")
print("nerfstudio", version("nerfstudio"))
raise SystemExit(sizes != [(64, 42), (61, 40)])
PYTHON
