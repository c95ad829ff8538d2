"""The words of the Agent Client Protocol, as types: those of the package `agent-client-protocol`.

Its schema alone is loaded. Its package also brings a connection on asyncio, which costs seconds and is not
ours; so it is passed by. Loading takes some 0.4 s of a quiet processor: at the first agent, in a thread.
Callers: the other modules here.
"""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.util import find_spec
from types import ModuleType

from orchestrator.errors import AgentError

PACKAGE = "acp"
#: The version of the protocol that we speak.
PROTOCOL_VERSION = 1

#: A module that is being loaded is in `sys.modules` already: without it, a second agent would get half of it.
_LOADS = threading.Lock()


def load_schema() -> ModuleType:
    """Return the module of the types; safe in any thread, more than once."""
    with _LOADS:
        return _load()


def _load() -> ModuleType:
    name = f"{PACKAGE}.schema"
    if name in sys.modules:
        return sys.modules[name]
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise AgentError('the runtime "acp" needs the package agent-client-protocol: install it')
    bare = ModuleType(PACKAGE)  # a package without its `__init__`
    bare.__path__ = list(found.submodule_search_locations)
    mine = sys.modules.setdefault(PACKAGE, bare) is bare
    try:
        return importlib.import_module(name)
    finally:
        if mine:  # whoever wants the whole package gets it
            sys.modules.pop(PACKAGE, None)
