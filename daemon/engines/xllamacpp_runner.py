"""The embedded engine's process: llama.cpp's own server in the ``xllamacpp`` wheel, started with
llama-server's flags.

It is run by its path under ``python -P``, maybe in an environment that holds nothing but the wheel:
so only the standard library and ``xllamacpp`` are imported, and nothing of this package by name
(without ``-P`` the ``xllamacpp.py`` beside this file would hide the wheel).

Exit status: 0 after SIGTERM or SIGINT; 1 with ``error: …`` on standard error for a command line
that cannot be honoured, and for a server that does not come up.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

# How long llama.cpp may take to put its threads and memory away; a client that is still connected
# keeps its HTTP threads for ever. Below any sensible stop grace, so that we end by ourselves.
TEARDOWN_SECONDS: Final = 1.5


def load_flags() -> Any:
    """The package of flags beside this file, as a package of its own."""
    folder = Path(__file__).with_name("xllamacpp_flags")
    name = "modelport_xllamacpp_flags"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # relative imports and dataclasses look it up
    spec.loader.exec_module(module)
    return module


def fail(text: str) -> int:
    sys.stdout.flush()
    print(f"error: {text}", file=sys.stderr, flush=True)
    return 1


def end_by_alarm() -> None:
    """From here on the process ends soon, whatever llama.cpp does.

    Its destructor waits for HTTP threads with the interpreter's lock held, so nothing in Python
    could end a hanging one: the kernel does, with the default action of the alarm. A second
    SIGTERM ends it at once.
    """
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(signum, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, TEARDOWN_SECONDS)


def main(argv: Sequence[str] | None = None) -> int:
    flags = load_flags()
    try:
        import xllamacpp
    except ImportError as error:
        return fail(f"cannot import xllamacpp in {sys.executable}: {error}")
    try:
        params = flags.parse(xllamacpp, sys.argv[1:] if argv is None else argv)
    except flags.UsageError as error:
        return fail(f"invalid argument: {error}")
    stop = threading.Event()
    # Blocks until the model is loaded (/health says 503 meanwhile). SIGTERM keeps its default
    # action until then, so that a load can be given up at once.
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        end_by_alarm()  # llama.cpp still writes its last words at the interpreter's exit
        return fail(str(error))
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())  # after the load: the wheel sets its own
    print(f"listening on {server.listening_address}", flush=True)
    stop.wait()
    end_by_alarm()
    del server  # stops the threads and frees the memory, Metal's too
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status) if status == 0 else sys.exit(status)
