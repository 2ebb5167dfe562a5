#!/usr/bin/env bash
# Nerfstudio gives the rays of all FISHEYE624 cameras through the lens of the first ray.
#
# What one would guess: in a batch of rays of several cameras, each ray goes through its own camera's lens, as with every
# other camera model.
# What happens: the focal length, the principal point and the distortion of the first ray's camera stand for all of them,
# and nothing says so. Captures of glasses with several cameras train on wrong rays, which differ from batch to batch.
# What to do: ask for the rays of one camera at a time, or unproject them yourself.
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

focal = torch.tensor([[100.0], [200.0]])
lenses = Cameras(
    torch.eye(4)[None, :3].expand(2, 3, 4),
    focal,
    focal,
    100.0,
    100.0,
    200,
    200,
    distortion_params=torch.zeros(2, 12),
    camera_type=CameraType.FISHEYE624,
)


def angles(cameras):
    """Degrees between the axis and the rays through a pixel 50 beside the middle."""
    place = torch.tensor([[100.0, 150.0]]).expand(len(cameras), 2)
    rays = lenses.generate_rays(camera_indices=torch.tensor(cameras)[:, None], coords=place)
    return [round(float(torch.rad2deg(torch.acos(-ray[2]))), 2) for ray in rays.directions]


print("true angles of the two lenses:", [round(float(a), 2) for a in torch.rad2deg(50.0 / focal[:, 0])])
alone, together, turned = [angles([0]), angles([1])], angles([0, 1]), angles([1, 0])
print(f"each alone {alone}, together {together}, in the other order {turned}")
print("nerfstudio", version("nerfstudio"))
apart = alone[0][0] - alone[1][0] > 5
raise SystemExit(not (apart and together == alone[0] * 2 and turned == alone[1] * 2))
PYTHON
