#!/usr/bin/env python3
"""A stand-in for llama-server that misbehaves on demand: ``engine.py --help`` lists how.

Standard library only, nothing slow imported: with ``python -I -S`` it starts in under 60 ms. It
takes llama-server's flags strictly, answers its routes and counts: ``GET /fake`` tells what it saw.
Faults come from flags, from the environment (FAKE_ENGINE_FLAGS: the same flags, for programs whose
command line is checked), or from a file of JSON that is read before each request (--control).
"""

from __future__ import annotations

import os
import sys

# Isolated (-I) there is no way to the project; "tests" is found from here.
sys.path.insert(0, os.path.abspath(__file__).rsplit("/tests/", 1)[0])  # noqa: PTH100

from tests.fakes.faults import parse, say
from tests.fakes.llama_server import LlamaServer


def main() -> None:
    """Parse and run."""
    options = parse(sys.argv[1:], __doc__ or "")
    if options.version:
        say("version: 0 (fake)\nbuilt with Python")
        return
    LlamaServer(options).run()


if __name__ == "__main__":
    main()
