"""The Nerfstudio plugin: the only part of the package that imports Nerfstudio."""

import warnings

from finer_nerfstudio.nerf.training.checkpoint_loading import allow_nerfstudio_checkpoints

# Nerfstudio asks for our parser of scenes before it imports its own fields, which call torch by names of yesterday.
warnings.filterwarnings("ignore", message=r"`torch\.cuda\.amp\.custom_", category=FutureWarning)
# Whatever command meets a run of ours unpickles this package's configuration first and so passes here.
allow_nerfstudio_checkpoints()
