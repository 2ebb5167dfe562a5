#!/usr/bin/env bash
# viser 0.2.7 smears small Gaussian splats along the diagonal (1, 1, 1).
#
# What one would guess: the covariances given to it are those it sends to the browser, up to half precision.
# What happens: before it takes their square root it adds 1e-7 to all nine entries of each, where only the three on the
# diagonal would keep it positive definite. A round splat of 0.0001 units becomes one of 0.00056 along the diagonal and
# 0.0001 across it; the unit of a scene being its size in metres, that is every splat of an object in the hand.
# What to do: scale the scene up, or give covariances from which 1e-7 is taken away.
#
# Ends with 0 while this is so, with 1 once it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet viser==0.2.7 numpy==1.26.4
"$folder/env/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import viser
from viser import _messages
from viser.infra import WebsockMessageHandler

sent = []
queue = WebsockMessageHandler.queue_message


def keep(self, message):
    if isinstance(message, _messages.GaussianSplatsMessage):
        sent.append(message.buffer)
    queue(self, message)


WebsockMessageHandler.queue_message = keep
server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
print("viser", version("viser"))
smeared = []
for sigma in (1e-1, 1e-2, 1e-3, 1e-4):
    server.scene._add_gaussian_splats(
        "/splats",
        centers=np.zeros((1, 3)),
        covariances=sigma**2 * np.eye(3)[None],
        rgbs=np.ones((1, 3)),
        opacities=np.ones((1, 1)),
    )
    root = np.zeros((3, 3))
    root[[0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2]] = sent[-1][0, 4:7].copy().view(np.float16)[[0, 1, 3, 2, 4, 5]]
    values, axes = np.linalg.eigh(root @ root.T)
    print(f"round, of {sigma:g}: sent as {np.sqrt(values).round(6).tolist()}, longest along {axes[:, 2].round(2).tolist()}")
    smeared.append(np.sqrt(values[2]) / sigma)
server.stop()
raise SystemExit(not (smeared[0] < 1.001 and smeared[3] > 5))
PYTHON
