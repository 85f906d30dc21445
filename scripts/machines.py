"""Write docs/machines.md: which model runs on which machine.

    python -P scripts/machines.py            write it
    python -P scripts/machines.py --check    exit with 1 if it is out of date

Run it again whenever the arithmetic of footprints or budgets has changed, and read the difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from tests.machine.table import render

    path = ROOT / "docs" / "machines.md"
    text = render()
    if "--check" in sys.argv[1:]:
        same = path.exists() and path.read_text("utf-8") == text
        print(f"{path} is {'up to date' if same else 'out of date: run scripts/machines.py'}")
        return 0 if same else 1
    path.write_text(text, "utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
