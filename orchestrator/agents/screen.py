"""A terminal's screen, kept by pyte: what stands where, and in which colours.

The invariant: no token takes more than some microseconds for each of its characters, or for a line of the
screen, whatever it says, and memory is bounded by the screen's size and `HISTORY_LINES`. So pyte's own
parser, which keeps what a program sends without bound and raises for odd parameters, is not used; what would
touch every cell for three bytes is done otherwise or not at all. Caller: `agents.live_terminal`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyte
from pyte import charsets, modes
from pyte.screens import Char, Margins, wcwidth

from orchestrator.core.escapes import Kind, Token

#: Lines that left the screen by its top and are kept.
HISTORY_LINES = 200
#: Columns and rows that a screen may have.
MAX_SIZE = (300, 100)
_SAVED = 8
#: Characters (a letter and its accents) that one cell may hold.
_CELL = 8

Line = Mapping[int, Char]


class Screen(pyte.Screen):
    """What a person would see; `apply` is the only way in."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines)
        self._gone: deque[Line] = deque(maxlen=HISTORY_LINES)
        #: The main screen and its cursor while the alternate one is shown.
        self._main: tuple[dict[int, Any], Any] | None = None

    def apply(self, tokens: Iterable[Token]) -> None:
        """Draw."""
        for token in tokens:
            match token.kind:
                case Kind.TEXT:
                    self.draw(token.text)
                case Kind.CONTROL:
                    if does := _CONTROLS.get(token.text):
                        does(self)
                case Kind.CSI:
                    self._obey(token)
                case Kind.SHORT:
                    if sets := _CHARSETS.get(token.final):
                        self.define_charset(*sets)
                    elif does := _SHORT.get(token.final):
                        does(self)
                case Kind.OSC:
                    pass

    def _obey(self, token: Token) -> None:
        numbers = token.numbers()
        if token.final in {"h", "l"}:
            self._set_modes(numbers, private=token.prefix == "?", on=token.final == "h")
        elif token.prefix:
            return
        elif token.final == "m":
            self.select_graphic_rendition(*numbers)
        elif found := _CSI.get(token.final):
            most, does = found
            does(self, *numbers[:most])

    def _set_modes(self, numbers: list[int], *, private: bool, on: bool) -> None:
        for mode in numbers:
            if private and mode in {47, 1047, 1049}:
                self._alternate(on=on)
            elif mode in ({6, 7, 25} if private else {4, 20}):
                (self.set_mode if on else self.reset_mode)(mode, private=private)

    def _alternate(self, *, on: bool) -> None:
        if on and self._main is None:
            self._main = (dict(self.buffer), self._position())
            self.buffer.clear()
        elif not on and self._main is not None:
            rows, (self.cursor.y, self.cursor.x) = self._main
            self._main = None
            self.buffer.clear()
            self.buffer.update(rows)
            self.ensure_hbounds()
            self.ensure_vbounds()

    def _position(self) -> tuple[int, int]:
        return self.cursor.y, self.cursor.x

    # --- what pyte does at a price, or not at all ----------------------------------------------------------

    def draw(self, data: str) -> None:
        """Write text at the cursor."""
        table = self.g1_charset if self.charset else self.g0_charset
        if table is not charsets.LAT1_MAP:
            data = data.translate(table)
        cursor, wraps, inserts = self.cursor, modes.DECAWM in self.mode, modes.IRM in self.mode
        cells: dict[str, Char] = {}
        for character in data:
            width = 1 if character < "\x7f" else wcwidth(character)
            if width <= 0:
                self._combine(character)
                continue
            if cursor.x + width > self.columns:
                if wraps:
                    self.carriage_return()
                    self.linefeed()
                else:
                    cursor.x = max(0, self.columns - width)
            if inserts:
                self.insert_characters(width)
            cell = cells.get(character)
            if cell is None:
                cell = cells[character] = cursor.attrs._replace(data=character)
            line = self.buffer[cursor.y]
            line[cursor.x] = cell
            if width == 2 and cursor.x + 1 < self.columns:
                line[cursor.x + 1] = cell._replace(data="")
            cursor.x = min(cursor.x + width, self.columns)

    def _combine(self, character: str) -> None:
        """Put an accent over the last letter, unless it has enough."""
        line = self.buffer[self.cursor.y]
        last = line[self.cursor.x - 1] if self.cursor.x else None
        if last is not None and last.data and len(last.data) < _CELL:
            line[self.cursor.x - 1] = last._replace(data=last.data + character)

    def index(self) -> None:
        """Go down a line; at the bottom the screen goes up, and its first line into the history."""
        top, bottom = self.margins or Margins(0, self.lines - 1)
        if self.cursor.y == bottom and top == 0 and self._main is None:
            self._gone.append(self.buffer[0])
        super().index()

    def next_line(self) -> None:
        """Go to the beginning of the next line."""
        self.carriage_return()
        self.index()

    def erase_in_display(self, how: int = 0, *_args: Any, **_more: Any) -> None:  # noqa: ANN401 - pyte's
        """Erase from the cursor on, up to it, or everything."""
        y = self.cursor.y
        rows = {0: range(y + 1, self.lines), 1: range(y), 2: range(self.lines), 3: range(self.lines)}.get(how)
        for row in rows or ():
            self.buffer.pop(row, None)
        if how in {0, 1}:
            self.erase_in_line(how)

    def save_cursor(self) -> None:
        """Remember the cursor; the last few are kept."""
        del self.savepoints[: -_SAVED + 1]
        super().save_cursor()

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self._main = None

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Take another size; what is cut off is gone."""
        super().resize(lines, columns)
        self.margins = None
        self.ensure_hbounds()
        self.ensure_vbounds()

    def cursor_to_line(self, line: int | None = None) -> None:
        """Go to a line, counted from the margin where a program asked for that."""
        self.cursor_position(line, self.cursor.x + 1)

    def scroll_up(self, count: int = 1) -> None:
        """Move the text within the margins up."""
        self._at_top_margin(self.delete_lines, count)

    def scroll_down(self, count: int = 1) -> None:
        """Move the text within the margins down."""
        self._at_top_margin(self.insert_lines, count)

    def _at_top_margin(self, move: Callable[[int], None], count: int) -> None:
        cursor = self.cursor
        place = cursor.x, cursor.y
        cursor.y = self.margins.top if self.margins else 0
        move(count)
        cursor.x, cursor.y = place

    # --- what is seen --------------------------------------------------------------------------------------

    def text(self) -> str:
        """Return the history and the screen as text, without the blank end of lines and screen."""
        rows = [*self._gone, *(self.buffer[y] for y in range(self.lines))]
        return "\n".join(map(self._plain, rows)).rstrip() + "\n"

    def rows(self) -> list[str]:
        """Return what is shown, line by line."""
        return [self._plain(self.buffer[y]) for y in range(self.lines)]

    def line_at_cursor(self) -> str:
        """Return the line that the cursor stands in, with the blanks at its end."""
        return self._plain(self.buffer[self.cursor.y]).ljust(self.columns)

    def _plain(self, row: Line) -> str:
        cells = (row.get(x, self.default_char) for x in range(self.columns))
        return "".join(cell.data for cell in cells).rstrip()

    def pictures(self) -> Iterable[tuple[list[Line], bool]]:
        """Return the main screen's rows, then those of the alternate one where it is shown, which is said."""
        if self._main is not None:
            hidden = self._main[0]
            yield [hidden.get(y, {}) for y in range(self.lines)], False
        yield [self.buffer[y] for y in range(self.lines)], self._main is not None


_CONTROLS: dict[str, Callable[[Screen], object]] = {
    "\b": Screen.backspace,
    "\t": Screen.tab,
    "\n": Screen.linefeed,
    "\v": Screen.linefeed,
    "\f": Screen.linefeed,
    "\r": Screen.carriage_return,
    "\x0e": Screen.shift_out,
    "\x0f": Screen.shift_in,
}
_SHORT: dict[str, Callable[[Screen], object]] = {
    "7": Screen.save_cursor,
    "8": Screen.restore_cursor,
    "D": Screen.index,
    "E": Screen.next_line,
    "H": Screen.set_tab_stop,
    "M": Screen.reverse_index,
    "c": Screen.reset,
}
_CHARSETS = {"(0": ("0", "("), "(B": ("B", "("), ")0": ("0", ")"), ")B": ("B", ")")}
#: How many parameters each takes, and what it does.
_CSI: dict[str, tuple[int, Callable[..., object]]] = {
    "@": (1, Screen.insert_characters),
    "A": (1, Screen.cursor_up),
    "B": (1, Screen.cursor_down),
    "C": (1, Screen.cursor_forward),
    "D": (1, Screen.cursor_back),
    "E": (1, Screen.cursor_down1),
    "F": (1, Screen.cursor_up1),
    "G": (1, Screen.cursor_to_column),
    "H": (2, Screen.cursor_position),
    "J": (1, Screen.erase_in_display),
    "K": (1, Screen.erase_in_line),
    "L": (1, Screen.insert_lines),
    "M": (1, Screen.delete_lines),
    "P": (1, Screen.delete_characters),
    "S": (1, Screen.scroll_up),
    "T": (1, Screen.scroll_down),
    "X": (1, Screen.erase_characters),
    "`": (1, Screen.cursor_to_column),
    "a": (1, Screen.cursor_forward),
    "d": (1, Screen.cursor_to_line),
    "e": (1, Screen.cursor_down),
    "f": (2, Screen.cursor_position),
    "g": (1, Screen.clear_tab_stop),
    "r": (2, Screen.set_margins),
    "s": (0, Screen.save_cursor),
    "u": (0, Screen.restore_cursor),
}
