#!/usr/bin/env bash
# Nerfstudio never draws pixels of the first photographs of a capture of mixed sizes, if there are many of them.
#
# What one would guess: each photograph is trained on, whether or not all have one size.
# What happens: if the sizes differ, rays are given to photographs in pairs, in the same way in each batch. With fewer
# rays than twice the photographs, the first ones get none, ever: of 700 photographs and 1,024 rays a batch, 188. If one
# photograph is cropped by a line, a fifth of a large capture is left out, and nothing says so.
# What to do: use twice as many rays as photographs, or bring all photographs to one size.
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip="$folder/env/bin/pip"
# What its pixel samplers import, and not what its trainer does.
"$pip" install --quiet torch==2.13.0 numpy==1.26.4 viser==0.2.7 jaxtyping==0.2.38 opencv-python-headless==4.10.0.84 rich tensorboard==2.20.0
"$pip" install --quiet --no-deps nerfstudio==1.1.5
"$folder/env/bin/python" - <<'PYTHON' 2>&1 | grep -v Warning
import warnings
from importlib.metadata import version

import torch

warnings.filterwarnings("ignore")
from nerfstudio.data.pixel_samplers import PixelSamplerConfig

PHOTOGRAPHS, RAYS, BATCHES = 700, 1024, 50


def never_drawn(heights):
    """Photographs, by number, of which no batch has a pixel."""
    torch.manual_seed(0)
    images = [torch.zeros(height, 12, 3) for height in heights]
    image = torch.stack(images) if len(set(heights)) == 1 else images
    batch = {"image": image, "image_idx": torch.arange(PHOTOGRAPHS)}
    sampler = PixelSamplerConfig(num_rays_per_batch=RAYS).setup()
    drawn = torch.cat([sampler.sample(batch)["indices"][:, 0] for _ in range(BATCHES)])
    return sorted(set(range(PHOTOGRAPHS)) - set(drawn.tolist()))


same, mixed = never_drawn([9] * PHOTOGRAPHS), never_drawn([9] * (PHOTOGRAPHS - 1) + [8])
print(f"{PHOTOGRAPHS} photographs, {BATCHES} batches of {RAYS} rays")
print(f"one size: {len(same)} are never drawn; the last one a line smaller: {len(mixed)}, {mixed[0]} to {mixed[-1]}")
print("nerfstudio", version("nerfstudio"))
raise SystemExit(not (same == [] and mixed == list(range(188))))
PYTHON
