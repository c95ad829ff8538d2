"""The version of this program, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("orchestrator")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0.0.0+checkout"


VERSION = _installed()
