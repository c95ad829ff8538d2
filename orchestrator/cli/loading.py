"""Loading what a long command is made of, without looking for garbage in it.

The invariant: afterwards garbage is looked for again, and never in what was loaded. Called by the commands
that are a service, around their imports.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import, in the block, with no look for garbage: it took a tenth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
