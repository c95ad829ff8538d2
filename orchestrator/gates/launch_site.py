"""Start Python without anything of the checkout in it: the first part of every program that gates give it.

An environment may lead to the checkout (of a project that is installed to be edited): then a module that the
candidate adds, `sitecustomize` or one that a tool only tries to import, would be run before the tool, or in
its stead. The invariant: what is imported comes from the environment alone. It runs inside a sandbox under
`python3 -I -S` and stands on the standard library of any Python 3.8; `python_config.program` hands it over.
"""

from __future__ import annotations

import os
import site
import sys


def open_site() -> list[str]:
    """Do as Python does at its start, but for what leads to the checkout; return what was left out."""
    customise = site.execsitecustomize
    site.execsitecustomize = lambda: None
    site.main()
    here, own = os.path.realpath("."), os.path.realpath(sys.prefix)
    left = [path for path in sys.path if is_below(path, here) and not is_below(path, own)]
    sys.path[:] = [path for path in sys.path if path not in left]
    customise()
    return left


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is a folder or below it."""
    return (os.path.realpath(path) + os.sep).startswith(folder + os.sep)
