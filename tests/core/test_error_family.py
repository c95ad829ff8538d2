"""Every error says what went wrong, and in words that clients and the journal know."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from orchestrator import errors
from orchestrator.core.model import Reason


def family(kind: type[errors.OrchestratorError]) -> Iterator[type[errors.OrchestratorError]]:
    """Yield the class and all that come from it."""
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


FAMILY = [kind for kind in family(errors.OrchestratorError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_can_be_told_to_a_client_and_to_the_journal(kind: type[errors.OrchestratorError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert 400 <= kind.status <= 599
    assert kind.reason in set(Reason)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_docstring_is_a_message(kind: type[errors.OrchestratorError]) -> None:
    if kind.__init__ is errors.OrchestratorError.__init__:
        assert str(kind()) == kind.__doc__
        assert str(kind("why")) == kind("why").detail == "why"


@pytest.mark.parametrize("kind", [kind for kind in FAMILY if kind.status in {429, 503}])
def test_what_may_pass_by_itself_is_said_to_be_retryable(kind: type[errors.OrchestratorError]) -> None:
    assert kind.retryable or issubclass(kind, errors.JournalError)
