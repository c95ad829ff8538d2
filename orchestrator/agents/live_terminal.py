"""One terminal of an agent while its program lives: read, drawn, typed at, looked at.

The invariant: the program's output is read as it comes, whoever looks, so that nobody holds it up; what one
piece of it costs is bounded, and other children run between two pieces. The screen is drawn only where
somebody asks for it, from the last `MAX_UNDRAWN` bytes: a flood costs no drawing. Whoever types, types whole
messages, one after the other. Callers: `agents.terminal` and, through `agents.registry`, `api.terminal`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from orchestrator.agents.painting import paint
from orchestrator.agents.screen import MAX_SIZE, Screen
from orchestrator.agents.signs import KNOWN_MODES, Signs
from orchestrator.agents.viewers import MAX_VIEWERS, Viewer
from orchestrator.core.escapes import Tokens
from sandbox.clock import Clock
from sandbox.relay import Tail
from sandbox.terminal import Size, Terminal

MIN_SIZE: Size = (20, 5)
#: Bytes of output that are kept as they came, for who wants to see them again.
REPLAY_BYTES = 256 * 1024
#: Bytes that wait to be drawn; what came before is skipped, and the screen begins anew.
MAX_UNDRAWN = 64 * 1024
#: How long one drawing may take in all before it skips to the end, and what it draws without a pause.
_DRAWING_S = 0.05
_STROKE_BYTES = 256
_LAST_BYTES = 1024
#: Typed bytes that wait for the program to read them.
MAX_TYPED, MAX_MESSAGES = 64 * 1024, 1024
_CHUNK_BYTES = 64 * 1024


class LiveTerminal:
    """See the module."""

    def __init__(self, terminal: Terminal, size: Size, clock: Clock) -> None:
        self._terminal = terminal
        self._clock = clock
        self._screen = Screen(*size)
        self._drawn, self._heard = Tokens(), Tokens()
        self._undrawn = bytearray()
        self._drawing = trio.Lock()
        self._replay = Tail(REPLAY_BYTES)
        self._typed: deque[tuple[bytes, trio.Event]] = deque()
        self._moved = trio.lowlevel.ParkingLot()
        self._viewers: set[Viewer] = set()
        self.signs = Signs()
        self.last_output_at = clock.now()
        #: How many pieces of output there were.
        self.pieces = 0
        #: Why there will be no more output; empty while there may be.
        self.over = ""

    # --- what the program shows ----------------------------------------------------------------------------

    async def read(self, sink: Callable[[bytes], Awaitable[None]]) -> None:
        """Read until nobody holds the terminal; `sink` is given each piece, cut anywhere."""
        while chunk := await self._terminal.receive_some(_CHUNK_BYTES):
            self._take(chunk)
            await sink(chunk)
            if self.signs.asked:
                await self._answer()

    def _take(self, chunk: bytes) -> None:
        if b"\x1b" in chunk or self._heard.open:  # else it is only text
            self.signs.note(self._heard.feed(chunk))
        self._replay.add(chunk)
        self._undrawn += chunk
        if len(self._undrawn) > 2 * MAX_UNDRAWN:  # seldom, so that a flood moves few bytes twice
            self._skip(MAX_UNDRAWN)
        for viewer in self._viewers:
            viewer.show_nowait(chunk)
        self.last_output_at = self._clock.now()
        self.pieces += 1
        self._moved.unpark_all()

    def _skip(self, keep: int) -> None:
        """Forget what stands and draw only the end, from the start of a line."""
        rest = bytes(self._undrawn[-keep:])
        self._undrawn[:] = rest[rest.find(b"\n") + 1 :]
        self._screen.reset()
        self._drawn = Tokens()

    async def _draw(self) -> None:
        """Bring the screen up to what was shown so far; bounded, and never long at a stretch.

        Nothing is left undrawn on return; of output that comes faster than that the middle is skipped.
        """
        async with self._drawing:
            began = trio.current_time()
            while self._undrawn:
                if trio.current_time() - began > _DRAWING_S:
                    if len(self._undrawn) > _LAST_BYTES:
                        self._skip(_LAST_BYTES)
                    self._stroke(_LAST_BYTES)
                    return
                self._stroke(_STROKE_BYTES)
                await trio.lowlevel.checkpoint()

    def _stroke(self, count: int) -> None:
        stroke = bytes(self._undrawn[:count])
        del self._undrawn[:count]
        self._screen.apply(self._drawn.feed(stroke))

    async def _answer(self) -> None:
        """Answer what the program asks its terminal; a viewer's own terminal is never asked."""
        asked, self.signs.asked = self.signs.asked, set()
        if "c" in asked:
            self.type_nowait(b"\x1b[?6c")
        if "5n" in asked:
            self.type_nowait(b"\x1b[0n")
        if "6n" in asked:
            await self._draw()
            cursor = self._screen.cursor
            self.type_nowait(b"\x1b[%d;%dR" % (cursor.y + 1, min(cursor.x + 1, self._screen.columns)))

    async def text(self) -> str:
        """Return what stands on the screen, and the lines that have left it by its top."""
        await self._draw()
        return self._screen.text()

    async def says(self, marker: str) -> bool:
        """Return whether the title, or the line in which the cursor stands, has the marker."""
        if marker in self.signs.title:
            return True
        await self._draw()
        return marker in self._screen.line_at_cursor()

    async def wait_moved(self) -> None:
        """Wait for further output, or the end."""
        await self._moved.park()

    def end(self, why: str) -> None:
        """Tell everybody that there will be no more output; the first reason counts."""
        self.over = self.over or why
        for viewer in self._viewers:
            viewer.end_nowait()
        self._moved.unpark_all()

    # --- what is typed -------------------------------------------------------------------------------------

    async def type_on(self) -> None:
        """Type what was handed in, in order, for as long as the program lives."""
        while True:
            while not self._typed:
                await self._moved.park()
            message, typed = self._typed[0]
            await self._terminal.send_all(message)
            self._typed.popleft()
            typed.set()
            self._moved.unpark_all()

    def type_nowait(self, message: bytes) -> bool:
        """Hand in what is typed; return False where too much waits that the program has not read."""
        waiting = sum(len(other) for other, _ in self._typed if len(other) <= MAX_TYPED)
        if self.over or waiting + len(message) > MAX_TYPED or len(self._typed) > MAX_MESSAGES:
            return False
        self._hand_in(message)
        return True

    async def type_whole(self, message: bytes) -> None:
        """Hand in a message of any length, and wait until the program's terminal has taken all of it."""
        typed = self._hand_in(message)
        while not (typed.is_set() or self.over):
            await self._moved.park()

    def _hand_in(self, message: bytes) -> trio.Event:
        typed = trio.Event()
        self._typed.append((message, typed))
        self._moved.unpark_all()
        return typed

    # --- who looks on --------------------------------------------------------------------------------------

    @contextmanager
    def watch(self, *, replay: bool = False) -> Iterator[Viewer]:
        """Look on until the block is left: from the screen as it is, or from the output that is kept."""
        viewer = Viewer(self._picture, first=self._replay.bytes() if replay else None)
        if self.over:
            viewer.end_nowait()
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    @property
    def crowded(self) -> bool:
        """Whether nobody more may look on."""
        return len(self._viewers) >= MAX_VIEWERS

    async def _picture(self) -> bytes:
        await self._draw()
        return paint(self._screen, self.signs.modes, KNOWN_MODES) + self._drawn.open

    def resize_nowait(self, columns: int, rows: int) -> None:
        """Give the terminal another size, within its bounds, for all who look on."""
        size = (
            min(max(columns, MIN_SIZE[0]), MAX_SIZE[0]),
            min(max(rows, MIN_SIZE[1]), MAX_SIZE[1]),
        )
        if size == (self._screen.columns, self._screen.lines):
            return
        self._screen.resize(size[1], size[0])
        self._terminal.resize_nowait(size)
        for viewer in self._viewers:
            viewer.repaint_nowait()
