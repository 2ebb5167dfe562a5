"""Our Adam against torch's own, and the moving average against double precision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.runs import adam
from finer_nerfstudio.runs.adam import Adam, Rules, follow, fresh_state, update


@pytest.fixture(scope="module", params=["compiled", "tensors"], autouse=True)
def program(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to move weights."""
    if request.param == "compiled" and adam._library() is None:
        pytest.skip("there is no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(adam, "_library", lambda: None)
        yield request.param


def some_parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (5,), (2, 5), ())]


def give_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    if seed < 2:
        parameters[1].grad = None  # it comes later, and its moments are younger


def trained(parameters: list[nn.Parameter], optimizer: Adam | torch.optim.Adam, steps: range) -> None:
    for step in steps:
        rate = 1e-2 * 0.9**step
        if isinstance(optimizer, Adam):
            optimizer.learning_rate = rate
        else:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        give_gradients(parameters, step)
        optimizer.step()


def test_steps_are_torchs(program: str) -> None:
    ours, torchs = some_parameters(), some_parameters()
    optimizer, reference = Adam(ours, 1e-2), torch.optim.Adam(torchs, lr=1e-2, fused=True)
    trained(ours, optimizer, range(6))
    trained(torchs, reference, range(6))
    rtol, atol = (0.0, 0.0) if program == "tensors" else (1e-5, 1e-6)
    torch.testing.assert_close(ours, torchs, rtol=rtol, atol=atol)
    moments = reference.state_dict()["state"]
    assert optimizer.state.keys() == moments.keys()
    for index, state in optimizer.state.items():
        torch.testing.assert_close(state, dict(moments[index]), rtol=rtol, atol=atol)


def test_loaded_moments_go_on() -> None:
    whole, parts = some_parameters(), some_parameters()
    trained(whole, Adam(whole, 1e-2), range(6))
    first, second = Adam(parts, 1e-2), Adam(parts, 1e-2)
    trained(parts, first, range(3))
    second.load(first.state)
    trained(parts, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert first.state[0]["step"] == 3, "moments are copied"


def test_without_gradients_nothing_changes() -> None:
    parameters = some_parameters()
    optimizer = Adam(parameters, 1e-2)
    optimizer.step()
    assert optimizer.state == {}
    assert all(torch.equal(a, b) for a, b in zip(parameters, some_parameters(), strict=True))


@pytest.mark.parametrize(
    ("index", "change", "complaint"),
    [
        (7, {}, "no parameter 7"),
        (0, {"exp_avg": torch.zeros(3, 5)}, "exp_avg of the parameter 0 has another shape"),
        (0, {"max_exp_avg_sq": torch.zeros(5, 3)}, "moments of the parameter 0 are"),
    ],
)
def test_moments_of_other_parameters_are_refused(index: int, change: dict, complaint: str) -> None:
    parameters = some_parameters()
    optimizer = Adam(parameters, 1e-2)
    trained(parameters, optimizer, range(1))
    with pytest.raises(ValueError, match=complaint):
        optimizer.load({index: {**optimizer.state[0], **change}})


def test_training_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from finer_nerfstudio.inr.methods import preset\n"
        "from finer_nerfstudio.runs.training import Schedule, train\n"
        "network = preset('siren', 'image').network(2, 1, width=8, depth=1)\n"
        "def backward(generator):\n"
        "    loss = network(torch.rand(64, 2, generator=generator)).square().mean()\n"
        "    loss.backward()\n"
        "    return loss.detach()\n"
        "train(network, backward, Schedule(2, 1e-3), generator=torch.Generator())\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


SHAPES = [(3,), (70, 300), (0,), (40000,)]


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def test_an_average_follows() -> None:
    means, values = tensors(0), tensors(1)
    expected = [
        mean.double() + 0.3 * (value.double() - mean.double()) for mean, value in zip(means, values, strict=True)
    ]
    follow(means, values, 0.3)
    for mean, wanted in zip(means, expected, strict=True):
        torch.testing.assert_close(mean.double(), wanted, rtol=1e-5, atol=1e-6)
    wide = [mean.double() for mean in tensors(0)]
    follow(wide, [value.double() for value in values], 0.3)
    for mean, wanted in zip(wide, expected, strict=True):
        torch.testing.assert_close(mean, wanted)


def test_moments_of_another_shape_are_refused() -> None:
    parameter = nn.Parameter(torch.ones(5, 3))
    parameter.grad = torch.ones(5, 3)
    with pytest.raises(InputError, match="moments do not fit"):
        update([parameter], [{**fresh_state(parameter), "exp_avg": torch.zeros(1)}], Rules(0.1))
    assert torch.equal(parameter, torch.ones(5, 3))


def test_moments_in_another_order_of_memory_are_read_as_they_are() -> None:
    found, expected = (nn.Parameter(torch.ones(5, 3)) for _ in range(2))
    moment = torch.arange(15.0).view(3, 5).T
    for parameter, first in ((found, moment), (expected, moment.contiguous())):
        parameter.grad = torch.ones(5, 3)
        update(
            [parameter],
            [{**fresh_state(parameter), "exp_avg": first.clone(memory_format=torch.preserve_format)}],
            Rules(0.1),
        )
    torch.testing.assert_close(found, expected)
