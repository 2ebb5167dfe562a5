"""Nerfstudio's commands without their ten seconds of imports: each is forked from a process that has imported them.

``python preloaded.py FOLDER`` puts a program of each command's name into the folder. These connect to it by a socket
there; it runs the command with the caller's arguments, folder, environment and standard streams, and answers with its
exit code. It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

COMMANDS = {
    "ns-train": "nerfstudio.scripts.train",
    "ns-eval": "nerfstudio.scripts.eval",
    "ns-render": "nerfstudio.scripts.render",
    "ns-export": "nerfstudio.scripts.exporter",
    "ns-viewer": "nerfstudio.scripts.viewer.run_viewer",
}


# Imports as little as it can. What interrupts it interrupts the command.
CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([{command!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
server.sendall(request)
answers = server.makefile("r")
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(answers.readline() or 1)
sys.exit(code if code >= 0 else 128 - code)
"""


def _serve(folder: Path) -> None:
    import importlib

    address = str(folder / "socket")
    for command in COMMANDS:
        client = folder / command
        client.write_text(CLIENT.format(python=sys.executable, address=address, command=command))
        client.chmod(0o755)
    sys.argv = ["ns-train"]  # by which the package knows that it is in a command of Nerfstudio
    entries = {command: importlib.import_module(module).entrypoint for command, module in COMMANDS.items()}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever has answered is gone
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(client, entries)
            client.close()


def _answer(client: socket.socket, entries: dict) -> None:
    """Run one command and end this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += client.recv(1 << 16)
    command, arguments, folder, environment = json.loads(request)
    pid = os.fork()
    if pid == 0:
        client.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [str(Path(sys.executable).with_name(command)), *arguments]
        sys.exit(entries[command]())
    for stream in streams:
        os.close(stream)
    client.sendall(f"{pid}\n".encode())
    process = os.pidfd_open(pid)
    ready, _, _ = select.select([process, client], [], [])
    if process not in ready:  # the client was killed
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
