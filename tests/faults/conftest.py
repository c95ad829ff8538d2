"""Supervisors for the tests of faults: the same as for the tests of the whole."""

from __future__ import annotations

from tests.system.conftest import own_service, remotes, service

__all__ = ["own_service", "remotes", "service"]
