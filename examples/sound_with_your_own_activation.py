# %% [markdown]
# # Fit a sound with an activation of your own
#
# Any elementwise function of a tensor can be made variable-periodic. Run this file as a whole, or cell by cell.

# %%
import wave
from pathlib import Path

import numpy as np
import torch

from finer_nerfstudio import fit_array, variable_periodic

OUTPUT = Path("outputs/examples")
OUTPUT.mkdir(parents=True, exist_ok=True)
RATE = 8000  # samples a second

# %% [markdown]
# Make a quarter of a second of a tone that rises from 200 to 1,000 hertz and fades.

# %%
time = np.arange(RATE // 4) / RATE
tone = np.sin(2 * np.pi * (200 * time + 1600 * time**2)) * np.exp(-6 * time)

# %% [markdown]
# A Lorentz curve is a bump with wide tails. By itself it hardly fits a tone at all. With sin(ωf (|x| + 1) x) in
# the place of x the bump repeats, and biases from U(-k, k) give the neurons frequencies to choose from.


# %%
def lorentz(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + (8 * x) ** 2)


settings = {"width": 64, "depth": 3, "steps": 300, "learning_rate": 1e-3}
plain = fit_array(tone, activation=lorentz, **settings)
ours = fit_array(tone, activation=variable_periodic(lorentz, omega_f=5.0), bias_range=20.0, **settings)
for name, fitted in (("Lorentz", plain), ("variable-periodic Lorentz", ours)):
    print(f"{name}: {fitted.psnr:.1f} dB")

# %% [markdown]
# Read it back four times as densely, and write it as a sound.

# %%
samples = ours.decode(4 * len(tone)).ravel()
with wave.open(str(OUTPUT / "tone.wav"), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(4 * RATE)
    file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
print(OUTPUT / "tone.wav")
