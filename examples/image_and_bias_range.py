# %% [markdown]
# # Fit an image, and see what k does
#
# FINER++ draws the first layer's biases from U(-k, k). A larger k gives the network higher frequencies to work with.
# Run this file as a whole, or cell by cell in an editor that supports percent scripts.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

from finer_nerfstudio import fit_array
from finer_nerfstudio.tasks.image.files import sample_image

OUTPUT = Path("outputs/examples")
OUTPUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# The package contains a generated picture. To use one of your own, replace it by `np.asarray(Image.open("photo.jpg"))`.

# %%
picture = sample_image(64).pixels  # [64, 64, 3], 0 to 255
small = {"channels_last": True, "width": 64, "depth": 3, "steps": 150}

# %% [markdown]
# Fit it with several k. The scales and the learning rate are those of `finer-sine`, so only k differs.

# %%
fits = {k: fit_array(picture, activation="finer-sine", bias_range=k, **small) for k in (0.1, 0.7, 2.8)}
for k, fitted in fits.items():
    print(f"k = {k}: {fitted.psnr:.1f} dB")

# %% [markdown]
# A first-layer neuron with bias b starts with 2|b| + 1 times the frequency of a plain sine: the largest is near 2k + 1.

# %%
for k, fitted in fits.items():
    biases = fitted.network.first.bias.detach().abs()
    print(f"k = {k}: frequencies up to {2 * biases.max() + 1:.1f} times the base frequency")

# %% [markdown]
# A fit is a function: decode it at four times the size, and show all of them side by side.

# %%
decoded = [fitted.decode((256, 256)).clip(0, 255).round().astype(np.uint8) for fitted in fits.values()]
Image.fromarray(np.concatenate(decoded, axis=1)).save(OUTPUT / "bias_range.png")
print(OUTPUT / "bias_range.png")
