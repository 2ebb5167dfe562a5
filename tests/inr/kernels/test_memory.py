"""Large memory is used again, and never while anything still reads it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from finer_nerfstudio import preset
from finer_nerfstudio.inr.kernels import memory
from finer_nerfstudio.inr.kernels.memory import empty_rows


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kilobyte is large, and nothing is kept from other tests."""
    monkeypatch.setattr(memory, "_LARGE", 1 << 10)
    memory.release()
    yield
    memory.release()


def test_memory_is_used_again_once_nobody_reads_it() -> None:
    like = torch.zeros(1)
    first = empty_rows(like, 10, 100)
    assert first.shape == (10, 100)
    place, row = first.data_ptr(), first[3]
    del first
    second = empty_rows(like, 10, 100)  # a view still reads the first
    assert second.data_ptr() != place
    del row
    third = empty_rows(like, 9, 100)
    assert third.data_ptr() == place
    third.fill_(1.0)
    second.fill_(2.0)
    assert bool((third == 1.0).all())


def test_little_memory_other_types_and_much_smaller_sizes_are_not_shared() -> None:
    like = torch.zeros(1)
    empty_rows(like, 1000)
    assert empty_rows(like.double(), 500).dtype == torch.float64
    assert len(memory._free) == 1
    small = empty_rows(like, 100)
    assert len(memory._free) == 1
    other = empty_rows(like, 400)  # less than half of what there is
    assert not memory._free
    del small, other


def test_no_more_is_kept_than_steps_need() -> None:
    tensors = [empty_rows(torch.zeros(1), 1000) for _ in range(20)]
    del tensors
    gc.collect()
    assert len(memory._free) == memory._MOST_KEPT
    memory.release()
    assert not memory._free


@pytest.mark.parametrize("method", ["finer-sine", "finer-wavelet"])
def test_gradients_of_a_graph_that_is_kept_stay_right(method: str) -> None:
    """While other networks are evaluated, whose memory comes from the same place."""
    network = preset(method, "image").network(2, 3, width=32, depth=3, generator=torch.Generator().manual_seed(0))
    batches = [torch.rand(300, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    parameters = list(network.parameters())

    def gradients(loss: torch.Tensor, *, keep: bool = False) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, parameters, retain_graph=keep))

    kept = network(batches[0]).square().mean()
    expected = gradients(kept, keep=True)
    alone = [gradients(network(batch).square().mean()) for batch in batches]
    again = gradients(kept)
    for found, wanted, apart in zip(again, expected, alone[0], strict=True):
        assert torch.equal(found, wanted)
        assert torch.equal(found, apart)
    for batch, wanted in zip(batches, alone, strict=True):
        for found, right in zip(gradients(network(batch).square().mean()), wanted, strict=True):
            assert torch.equal(found, right)
