"""The command line: ``ctl`` (also ``modelport``)."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one command; the result is the exit code (0 ok, 1 refused, 2 usage, 3 no daemon)."""
    from control_api.commands.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
