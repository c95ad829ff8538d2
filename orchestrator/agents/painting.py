"""A terminal's screen as bytes that draw it on another terminal, whatever stood there before.

The invariant: after these bytes a viewer sees what the program's other viewers see, with the same modes for
its keys, and needs nothing of what came before. Caller: `agents.live_terminal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pyte.graphics import BG_AIXTERM, BG_ANSI, FG_AIXTERM, FG_ANSI
from pyte.screens import Char

from orchestrator.agents.screen import Line, Screen

_FOREGROUND = {name: str(code) for code, name in (FG_AIXTERM | FG_ANSI).items()}
_BACKGROUND = {name: str(code) for code, name in (BG_AIXTERM | BG_ANSI).items()}
_STYLES = (("bold", "1"), ("italics", "3"), ("underscore", "4"), ("blink", "5"), ("reverse", "7"))
#: Ends a sequence that was cut, then what begins from nothing: colours, character sets, margins.
_CLEAR = "\x18\x1b[?1049l\x1b[0m\x1b(B\x1b)B\x0f\x1b[r\x1b[?6l\x1b[4l\x1b[?7h"


def paint(screen: Screen, modes: frozenset[int], known: frozenset[int]) -> bytes:
    """Return the screen as it stands; of the `known` private modes, those in `modes` are on."""
    parts = [_CLEAR]
    for rows, alternate in screen.pictures():
        parts.append("\x1b[?1049h\x1b[0m\x1b[2J" if alternate else "\x1b[0m\x1b[2J")
        parts += (_row(screen, y, row) for y, row in enumerate(rows) if row)
    parts += (f"\x1b[?{mode}{'h' if mode in modes else 'l'}" for mode in sorted(known))
    cursor = screen.cursor
    parts.append(f"\x1b[{cursor.y + 1};{min(cursor.x, screen.columns - 1) + 1}H{_style(cursor.attrs)}")
    return "".join(parts).encode("utf-8", "replace")


def _row(screen: Screen, y: int, row: Line) -> str:
    blank = screen.default_char
    cells = [row.get(x, blank) for x in range(screen.columns)]
    while cells and cells[-1] == blank:
        cells.pop()
    return f"\x1b[{y + 1};1H" + "".join(_runs(cells))


def _runs(cells: list[Char]) -> Iterator[str]:
    for style, run in groupby(cells, _style):
        yield style + "".join(cell.data for cell in run)


def _style(cell: Char) -> str:
    codes = ["0", *(code for name, code in _STYLES if getattr(cell, name))]
    codes.append(_colour(cell.fg, _FOREGROUND, "38"))
    codes.append(_colour(cell.bg, _BACKGROUND, "48"))
    return f"\x1b[{';'.join(codes)}m"


def _colour(name: str, names: dict[str, str], exact: str) -> str:
    if found := names.get(name):
        return found
    red, green, blue = bytes.fromhex(name)
    return f"{exact};2;{red};{green};{blue}"
