"""The rules, which are data: those of gitleaks, unchanged, and ours.

The invariant: they come with this program; nothing in a repository adds to them or takes from them.
`rules/README.md` says where they are from. Caller: `scan`.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

SOURCES = ("own.toml", "gitleaks.toml")


def read_rules() -> dict[str, Any]:
    """Return the rules of all sources, and the list of what no rule takes for a secret."""
    here = files(__package__) / "rules"
    parsed = [tomllib.loads((here / source).read_text(encoding="utf-8")) for source in SOURCES]
    allowlist = next(each["allowlist"] for each in parsed if "allowlist" in each)
    return {"allowlist": allowlist, "rules": [rule for each in parsed for rule in each["rules"]]}
