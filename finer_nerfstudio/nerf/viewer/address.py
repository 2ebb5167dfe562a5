"""Where a viewer is to listen, tried before viser does: its server would end in a thread that others wait for."""

from __future__ import annotations

import errno
import socket

from nerfstudio.configs.base_config import ViewerConfig

from finer_nerfstudio.errors import InputError, UsageError, in_one_line

_HIGHEST_PORT = 65_535


def require_address(viewer: ViewerConfig) -> None:
    """Refuse a host and port at which no viewer could listen. Of a port that is taken, viser takes the next free one.

    Raises:
        UsageError: for a port that there is not.
        InputError: where this machine does not let the viewer listen.
    """
    host = viewer.websocket_host
    port = viewer.websocket_port_default if viewer.websocket_port is None else viewer.websocket_port
    if not 1 <= port <= _HIGHEST_PORT:
        raise UsageError(f"--viewer.websocket-port must lie between 1 and {_HIGHEST_PORT:,}, not {port}.")
    try:
        with socket.socket() as tried:
            tried.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise InputError(
                f"the viewer cannot listen at {host}:{port} ({in_one_line(error)}): give another "
                f"--viewer.websocket-host or --viewer.websocket-port."
            ) from error
