"""The exponential moving average of a field's weights, which evaluation uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from finer_nerfstudio.runs.adam import follow


class AveragedField(AveragedModel):
    """A field with the moving average of another one's weights.

    Args:
        field: whose weights are averaged.
        decay: of the average per step, in [0, 1).
    """

    def __init__(self, field: nn.Module, decay: float) -> None:
        self._decay = decay
        super().__init__(field, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.requires_grad_(False)
        self._has_average = False
        self._pairs: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def follow(self, field: nn.Module) -> None:
        """Move the average towards the weights of ``field``, always the same one.

        As ``update_parameters``, which takes as long as a small network's own training step.
        """
        # Asked once: the answer lies on the GPU, which has to finish its work to give it.
        self._has_average = self._has_average or int(self.n_averaged) > 0
        if not self._pairs:  # finding them takes longer than moving them
            self._pairs = [*zip(self.module.parameters(), field.parameters(), strict=True)]
        means, values = zip(*self._pairs, strict=True)
        if self._has_average:
            follow(means, values, 1.0 - self._decay)
        else:
            for mean, value in self._pairs:
                mean.copy_(value)
        self.n_averaged += 1
