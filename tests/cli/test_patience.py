"""A person at a terminal sees that something goes on; nobody else sees anything."""

from __future__ import annotations

import io
import signal
import sys

import pytest

from orchestrator.cli.patience import patience


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_terminal_is_told_each_second_and_cleaned_after(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    before = signal.getsignal(signal.SIGALRM)
    with patience("killing"):
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGALRM)
        assert terminal.getvalue().endswith("killing: 2 s")
    assert terminal.getvalue().endswith("\r\x1b[2K")
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("stream", "what"), [(io.StringIO(), "killing"), (Terminal(), "killing"), (Terminal(), "")]
)
def test_what_is_quick_or_unwatched_is_not_mentioned(
    stream: io.StringIO, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with patience(what):
        pass
    assert stream.getvalue() == ""
