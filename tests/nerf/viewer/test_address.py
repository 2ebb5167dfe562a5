"""Addresses at which no viewer could listen."""

from __future__ import annotations

import socket

import pytest
from nerfstudio.configs.base_config import ViewerConfig

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.nerf.training.trainer import FinerTrainerConfig
from finer_nerfstudio.nerf.viewer.address import require_address


@pytest.mark.parametrize("port", [-1, 0, 65_536, 80_000])
def test_ports_that_there_are_not(port: int) -> None:
    with pytest.raises(UsageError, match=f"must lie between 1 and 65,535, not {port}"):
        require_address(ViewerConfig(websocket_host="127.0.0.1", websocket_port=port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_hosts_that_are_not_this_machine(host: str) -> None:
    with pytest.raises(InputError, match=f"cannot listen at {host}:7007 .*--viewer.websocket-host"):
        require_address(ViewerConfig(websocket_host=host))


def test_a_port_that_is_taken_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        require_address(ViewerConfig(websocket_host="127.0.0.1", websocket_port=taken.getsockname()[1]))


def test_the_configuration_of_ns_viewer_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    config = FinerTrainerConfig()
    with pytest.raises(SystemExit) as ended:
        config.viewer = ViewerConfig(websocket_port=80_000)
    assert ended.value.code == 2
    assert "--viewer.websocket-port" in capsys.readouterr().err
