"""The Nerfstudio plugin: the only part of the package that imports Nerfstudio."""

from finer_nerfstudio.nerf.checkpoint_loading import allow_nerfstudio_checkpoints

# Whatever command meets a run of ours unpickles this package's configuration first and so passes here.
allow_nerfstudio_checkpoints()
