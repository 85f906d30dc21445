"""Runs alone, inside the sandbox: ``inside.py PORT SOCKET WIRE -- COMMAND…``.

Listens on the loopback of the sandbox, passes every connection on to the one socket that leads
out, runs the command and ends with it. Signals come as bytes on the descriptor WIRE: from outside
nothing in here can be reached by number. Standard library only; imports nothing of ours.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

CHUNK = 65536


def pump(source: socket.socket, drain: socket.socket) -> None:
    """Bytes one way, until the end; then that end is passed on."""
    try:
        while data := source.recv(CHUNK):
            drain.sendall(data)
        drain.shutdown(socket.SHUT_WR)
    except OSError:
        for one in (source, drain):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def carry(client: socket.socket, path: str) -> None:
    """One connection, both ways."""
    with client, socket.socket(socket.AF_UNIX) as out:
        try:
            out.connect(path)
        except OSError:
            return
        back = threading.Thread(target=pump, args=(out, client), daemon=True)
        back.start()
        pump(client, out)
        back.join()


def accept(listener: socket.socket, path: str) -> None:
    """Connections, for ever."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=carry, args=(client, path), daemon=True).start()


def listen(wire: int, pid: int) -> None:
    """Signals for the command, a byte each."""
    while number := os.read(wire, 1):
        try:
            os.kill(pid, number[0])
        except OSError:
            return


def main(argv: list[str]) -> int:
    """See the module. The exit status is that of the command, 128 + N after signal N."""
    port, path, wire, command = int(argv[0]), argv[1], int(argv[2]), argv[4:]
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    threading.Thread(target=accept, args=(listener, path), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGQUIT):  # the terminal sends these to the command too
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(wire, False)
    ordinary = [signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ]
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=ordinary)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=listen, args=(wire, pid), daemon=True).start()
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):  # nobody in here could continue it
            os.kill(pid, signal.SIGCONT)
        elif os.WIFSIGNALED(status):
            return 128 + os.WTERMSIG(status)
        else:
            return os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main(sys.argv[1:]))  # threads that still carry bytes must not be waited for
