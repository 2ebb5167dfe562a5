#!/usr/bin/env bash
# Fused Adam goes wrong without a word when a checkpoint's moments have another memory format than the weights.
#
# What one would guess: a model trained with channels_last weights goes on from its checkpoint in the default format,
# and the other way round; formats say how numbers lie in memory, not which they are.
# What happens: load_state_dict keeps the strides of the saved moments, and the fused step on CPUs takes numbers of
# weights, gradients and moments by their place in memory. Weights then move by the moments of other weights. The steps
# of the same optimizer without fused=True are right.
# What to do: after loading, copy each moment into memory laid out as its weight is.
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6
"$folder/env/bin/python" - <<'PYTHON'
import copy

import torch


def trained(layout: torch.memory_format, fused: bool, state: dict | None = None, weights: dict | None = None):
    """Make a convolution in a memory format, load what is given, and train it for a few steps."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=layout)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2, fused=fused)
    if weights is not None:
        layer.load_state_dict(weights)
        optimizer.load_state_dict(copy.deepcopy(state))  # it would share the moments
        optimizer.param_groups[0]["fused"] = fused  # which a state dict brings along
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images = torch.randn(8, 3, 9, 9, generator=generator).to(memory_format=layout)
        optimizer.zero_grad()
        (layer(images) ** 2).mean().backward()
        # Gradients in the layout of their weights, so that moments alone differ.
        for parameter in layer.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        optimizer.step()
    return layer, optimizer


layer, optimizer = trained(torch.channels_last, fused=True)
saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(layer.state_dict())
moment = saved[0]["state"][0]["exp_avg"]
layouts = {"default": torch.contiguous_format, "channels_last": torch.channels_last}
print("torch", torch.__version__, "moments saved with strides", moment.stride())
differences = {}
for name, layout in layouts.items():
    plain, fused = (trained(layout, is_fused, *saved)[0].weight.detach() for is_fused in (False, True))
    differences[name] = float((plain - fused).abs().max())
    print(f"{name}: fused and plain steps end {differences[name]:.1e} apart, with a learning rate of 0.01")
raise SystemExit(not differences["default"] > 1e-3 > 100 * differences["channels_last"])
PYTHON
