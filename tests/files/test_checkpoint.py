"""Saved networks come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from finer_nerfstudio import METHODS, CoordinateNetwork, load_model, preset, save_model, variable_periodic
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.description import describe, network_of


def network_for(method: str) -> CoordinateNetwork:
    return preset(method, "image").network(2, 3, width=24, depth=3, generator=torch.Generator().manual_seed(1))


def saved(path: Path, method: str = "finer-wavelet") -> CoordinateNetwork:
    network = network_for(method)
    save_model(path, network, task="image", signal={"height": 4, "width": 5}, configuration={"seed": 1})
    return network


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_back(method: str, tmp_path: Path) -> None:
    network = saved(tmp_path / "model.safetensors", method)
    model = load_model(tmp_path / "model.safetensors", task="image")
    coords = torch.rand(10, 2)
    assert torch.equal(model.network(coords), network(coords))
    assert model.signal == {"height": 4, "width": 5}
    assert model.configuration == {"seed": 1}
    assert not any(tensor.is_complex() for tensor in network.state_dict().values())
    assert json.loads(json.dumps(describe(model.network))) == describe(network)


def test_the_folder_of_a_fit_stands_for_its_model(tmp_path: Path) -> None:
    network = saved(tmp_path / "model.safetensors")
    coords = torch.rand(10, 2)
    assert torch.equal(load_model(str(tmp_path)).network(coords), network(coords))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there is no file .*empty/model\.safetensors"):
        load_model(tmp_path / "empty")


def test_a_custom_activation_cannot_be_saved(tmp_path: Path) -> None:
    network = CoordinateNetwork(2, 1, width=8, depth=1, activation=variable_periodic(torch.tanh))
    with pytest.raises(ValueError, match="your own"):
        save_model(tmp_path / "model.safetensors", network, task="image", signal={}, configuration={})


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_cut_files_are_named(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_model(path)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="did not write"):
        load_model(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no file"):
        load_model(tmp_path / "missing.safetensors")


def test_models_of_another_task_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="'sdf' is needed"):
        load_model(tmp_path / "model.safetensors", task="sdf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 10**9),
        ("width", -1),
        ("width", 3.5),
        ("width", True),
        ("depth", 0),
        ("depth", None),
        ("in_dim", "2"),
        ("encoding_frequencies", -1),
        ("bias_range", float("nan")),
        ("activation", {"family": "__import__"}),
        ("activation", []),
        ("activation", {"family": "sine", "omega_0": 1e400}),
        ("activation", {"family": "sine", "s_0": 3.0}),
        ("activation", {"family": "relu", "variable_periodic": {"omega_f": 1.0, "scale_gradient": False}}),
        ("activation", {"family": "gauss", "s_0": 3.0, "variable_periodic": 7}),
    ],
)
def test_descriptions_from_strangers_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        network_of({**describe(network_for("finer-sine")), name: value})


def test_no_memory_is_taken_before_the_weights_are_there() -> None:
    # 64 layers of 65,536 units would be a terabyte.
    network = network_of({**describe(network_for("finer-sine")), "width": 65_536, "depth": 64})
    assert network.first.weight.is_meta


def test_weights_that_do_not_fit_the_description(tmp_path: Path) -> None:
    from finer_nerfstudio.files.checkpoint import _save_tensors

    network = network_for("siren")
    header = {"task": "image", "signal": {}, "configuration": {}, "network": {**describe(network), "width": 25}}
    _save_tensors(tmp_path / "model.safetensors", network.state_dict(), header)
    with pytest.raises(InputError, match="do not fit"):
        load_model(tmp_path / "model.safetensors")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    saved(path, "siren")
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        saved(path, "wire")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", 3), ("network", [1]), ("network.width", "x" * 5000), ("network.width", [0] * 1000),
        ("network.bias_range", 10**400), ("network.bias_range", [[1e200] * 4] * 4), ("network.activation", [[]]),
        ("network.activation.family", ["sine"]), ("network.activation.family", "x" * 5000),
        ("network.activation.omega_0", 10**400), ("network.activation.variable_periodic", {"omega_f": "y" * 5000}),
        ("signal", 3), ("configuration", None), ("task", []), ("version", {}),
    ],
)  # fmt: skip
def test_values_of_a_wrong_kind_get_one_short_sentence(name: str, value: object, tmp_path: Path) -> None:
    import json
    import struct

    network = preset("finer-sine", "image").network(2, 3, width=8, depth=2)
    path = tmp_path / "model.safetensors"
    save_model(path, network, task="image", signal={}, configuration={})
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    own = json.loads(header["__metadata__"]["finer_nerfstudio"])
    *parents, last = name.split(".")
    place = own
    for parent in parents:
        place = place[parent]
    place[last] = value
    encoded = json.dumps({**header, "__metadata__": {"finer_nerfstudio": json.dumps(own)}}).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + size :])
    with pytest.raises(InputError, match="cannot be rebuilt") as raised:
        load_model(path)
    assert len(str(raised.value)) < 500 + len(str(path))


def test_what_parsers_quote_of_a_file_is_cut_short(tmp_path: Path) -> None:
    import struct

    encoded = b'{"' + b"x" * 100_000 + b'": 3}'
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    with pytest.raises(InputError, match="cannot be read") as raised:
        load_model(tmp_path / "m.safetensors")
    assert len(str(raised.value)) < 500 + len(str(tmp_path))
