"""What a command prints: tables and lines for a person, or JSON for a program.

The invariants: under `--json` standard output holds JSON and nothing else; colour appears only on a
terminal; text never passes through rich's markup, and a cell or line has been through `escaped` before it
gets here or goes through it here. Rich is imported with the first line for a person, not before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.cli.failure import Failed
from orchestrator.cli.printable import one_line, to_json
from orchestrator.core.text import escaped

if TYPE_CHECKING:
    from rich.console import Console

#: The colours of statuses, phases and verdicts, wherever a cell holds one.
STYLES = {
    "completed": "green",
    "done": "green",
    "ok": "green",
    "passed": "green",
    "running": "cyan",
    "spawning": "blue",
    "failed": "red",
    "rejected": "red",
    "missing": "red",
    "killed": "yellow",
    "cancelled": "yellow",
    "warning": "yellow",
    "paused": "yellow",
}
#: Wide enough that nothing is wrapped or cut where a program or a file reads.
_UNLIMITED = 100_000
#: What every surface for people says while gates are skipped.
YOLO_BANNER = "YOLO_MODE: quality gates disabled"


class Output:
    """Where a command's results go."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stream = sys.stdout if stream is None else stream
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """The console of rich, with all its readings of text turned off."""
        if self._console is None:
            from rich.console import Console  # noqa: PLC0415 - a tenth of a second that `--json` need not pay

            class Piped(Console):
                def on_broken_pipe(self) -> None:
                    raise BrokenPipeError  # rich would end the whole program, with exit status 1

            terminal = self._stream.isatty()
            self._console = Piped(
                file=self._stream,
                force_terminal=terminal,
                width=None if terminal else _UNLIMITED,
                markup=False,
                emoji=False,
                highlight=False,
                legacy_windows=False,
            )
        return self._console

    def json(self, value: Any) -> None:  # noqa: ANN401 - whatever the API answered
        """Print one JSON document on one line, at once."""
        self._stream.write(to_json(value) + "\n")
        self._stream.flush()

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of texts, or (text, style) pairs, at once and unwrapped."""
        from rich.text import Text  # noqa: PLC0415 - as above

        text = Text()
        for part in parts:
            words, style = (part, "") if isinstance(part, str) else part
            text.append(escaped(words), style=style or None)
        self.console.print(text, soft_wrap=True)
        self._stream.flush()

    def lines(self, title: str, lines: Iterable[str]) -> None:
        """Print a title and lines that others wrote."""
        self.line((title, "bold"))
        for line in lines:
            self.line(f"  {line}")

    def diff(self, text: str) -> None:
        """Print a diff, its lines in the colours of what they are."""
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in text.removesuffix("\n").split("\n"):
            style = "bold" if line.startswith(("+++", "---", "diff ")) else styles.get(line[:1], "")
            self.line((line, style))

    def raw(self, text: str) -> None:
        """Write text unchanged: for a file or a program, never for a terminal."""
        if self._stream.isatty():
            raise Failed("raw text is not for a terminal", fix="send it to a file or a program")
        self._stream.write(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table; the first column is never cut, the others are where a terminal is narrow."""
        from rich.table import Table  # noqa: PLC0415 - as above
        from rich.text import Text  # noqa: PLC0415 - as above

        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=36 if number == 0 else None)
        for row in rows:
            cells = [one_line(shown(value), _UNLIMITED) for value in row]
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
        self._print_trimmed(table)

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Print names and values, one pair a line; empty values are left out."""
        wanted = [(name, shown(value)) for name, value in pairs if value not in (None, "", [], {})]
        width = max((len(name) for name, _ in wanted), default=0)
        for name, value in wanted:
            self.line((f"{name:<{width}}  ", "bold"), (value, STYLES.get(value, "")))

    def _print_trimmed(self, renderable: Any) -> None:  # noqa: ANN401 - anything that rich can render
        # Rich pads every row to the table's width: on a terminal nobody sees it, in a file it is litter.
        with self.console.capture() as capture:
            self.console.print(renderable)
        self._stream.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def shown(value: object) -> str:
    """Return a JSON value as a person reads it."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case list() | tuple():
            return ", ".join(shown(member) for member in value) or "-"
        case dict():
            return ", ".join(f"{key} {shown(member)}" for key, member in value.items()) or "-"
        case _:
            return str(value)


def age(moment: str | None, now: datetime | None = None) -> str:
    """Return how long ago a moment of the API was: `12 s`, `5 min`, `3 h`, `2 d`."""
    if not moment:
        return "-"
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return one_line(moment, 24)
    seconds = max(0, round(((now or datetime.now(UTC)) - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
