"""The program, run from a checkout: `python orchestrator.py ...` is the command `orchestrator ...`."""

from __future__ import annotations

import sys

from orchestrator.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
