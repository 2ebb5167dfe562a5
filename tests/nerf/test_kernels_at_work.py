"""Kernels are used only where they compute what tensor functions do."""

from __future__ import annotations

import os

import pytest
import torch

from finer_nerfstudio.nerf import kernels_at_work

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_there_are_none_for_processors() -> None:
    assert not kernels_at_work.usable(torch.zeros(1))


@pytest.mark.skipif(
    DEVICE.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
    reason="without a GPU, the interpreter's process runs this",
)
def test_kernels_agree_and_are_left_alone_where_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from finer_nerfstudio.nerf import triton_compositing
    from finer_nerfstudio.nerf.captured import triton_adam

    kernels_at_work._agree.cache_clear()
    with torch.no_grad():
        assert kernels_at_work._agree(DEVICE)
    if DEVICE.type == "cuda":
        monkeypatch.setenv("FINER_GPU_KERNELS", "plain")
        assert not kernels_at_work.usable(torch.zeros(1, device=DEVICE))
        monkeypatch.delenv("FINER_GPU_KERNELS")
        assert kernels_at_work.usable(torch.zeros(1, device=DEVICE))

    def fails(*_: object) -> None:
        raise RuntimeError("no kernel image\nmore")

    def wrong(thickness: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(thickness), torch.zeros_like(thickness)

    for module, name, broken, said in (
        (triton_adam, "update", fails, "are not used on .*RuntimeError: no kernel image"),
        (triton_compositing, "weights", wrong, r"differ from those of tensor functions \(weights"),
    ):
        kernels_at_work._agree.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            with pytest.warns(UserWarning, match=said):
                agreed = kernels_at_work._agree(DEVICE)
        assert not agreed
    kernels_at_work._agree.cache_clear()
