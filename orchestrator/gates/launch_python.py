"""Have a checkout's Python tests run by a child, keep its books, and report: it runs inside a sandbox.

`gates.python` hands its text to `python3 -I -S -c`, so it stands on the standard library of any Python 3.8.
The invariant: what the report says is counted here, in a process that imports nothing of the checkout, lets
nobody read its memory, and alone knows the secret that the report bears: the child was forked before it came.
So code under test cannot write a report, and where it ends its process, replays it, or keeps tests from being
run, the books do not close. What it can do, with effort, is to lie to the runner in its own process
(`work_python`) about the outcome of a test.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import select
import shutil
import sys
from typing import Any

from orchestrator.gates.launch_site import open_site

UNHEALTHY = 3
#: No line of a child's book is longer, and no child says more than this in all.
MAX_LINE = 16 * 1024
MAX_BOOK = 256 * 1024 * 1024
PR_SET_DUMPABLE = 4


def main() -> int:
    """Do as standard input says; return the exit status."""
    left = open_site()
    if importlib.util.find_spec("pytest") is None:
        go_where_pytest_is()
    ordered, order_in = os.pipe()
    book, book_in = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(order_in)
        os.close(book)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os._exit(work(ordered, book_in, left))
    os.close(ordered)
    os.close(book_in)
    close_to_others()
    order = json.loads(sys.stdin.buffer.read())
    nonce = order.pop("nonce")
    order["key"] = os.urandom(16).hex()
    with open(order_in, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(json.dumps(order).encode())
    return keep_books(Books(order["key"]), book, child, nonce)


def close_to_others() -> None:
    """Keep processes of the same user from reading this one's memory or descriptors."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, AttributeError):
        complain("this process cannot be closed to others")


def complain(text: str) -> None:
    """Say what keeps the tests from being run."""
    sys.stderr.write(f"orchestrator: {text}\n")
    sys.stderr.flush()


def go_where_pytest_is() -> None:
    """Become the interpreter that the `pytest` on PATH belongs to, where there is one."""
    script = shutil.which("pytest")
    text = getattr(sys, "orig_argv", [])
    if script is None or len(text) != 5:
        return
    with open(script, "rb") as file:  # noqa: PTH123
        first = file.readline(4096)
    interpreter = first[2:].decode(errors="replace").strip()
    if first.startswith(b"#!") and "python" in interpreter and os.access(interpreter, os.X_OK):
        os.execv(interpreter, [interpreter, *text[1:], "again"])  # noqa: S606


# --- the parent: what is believed ------------------------------------------------------------------------


class Books:
    """What the child told, line by line; it is believed only where it adds up."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.counts = dict.fromkeys(("ran", "skipped", "xfailed", "failed", "deselected"), 0)
        self.failures: set[str] = set()
        self.facts: dict[str, Any] = {}
        self.broken: str | None = None
        self._ran: set[int] = set()
        self._finished: set[int] = set()

    def note(self, line: bytes) -> None:
        """Take one line of the child."""
        try:
            key, word, *said = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            self.broken = "somebody else wrote into their report"
            return
        if key != self._key:
            self.broken = "somebody else wrote into their report"
        elif word == "test":
            self._note_test(*said)
        elif word == "failed":
            self.counts["failed"] += 1
            self.failures.add(str(said[0]))
        elif word == "deselected":
            self.counts["deselected"] += int(said[0])
        elif word == "counts":
            self.counts.update(said[0])
        else:
            self.facts[word] = said[0]

    def _note_test(self, name: str, when: str, outcome: str) -> None:
        known = hash(name)
        if when == "call" and outcome != "skipped":
            self._ran.add(known)
            self.counts["xfailed"] += outcome == "xfailed"
        elif outcome == "skipped":
            self.counts["skipped"] += 1
        if when == "teardown":
            self._finished.add(known)
        self.counts["ran"] = len(self._ran)

    def close(self, status: int) -> dict[str, Any]:
        """Return the report, given how the child ended."""
        report = {**self.facts, **self.counts, "failures": sorted(self.failures)[:20]}
        selected, end = self.facts.get("selected"), self.facts.get("status")
        missing = selected - len(self._finished) if isinstance(selected, int) else 0
        if "missing" not in report and end != status:
            report.setdefault("broken", "early")
        if self.broken:
            report["unsound"] = self.broken
        elif end == 0 and missing:
            report["unsound"] = f"{missing} of {selected} tests never came to their end"
        return report


def keep_books(books: Books, book: int, child: int, nonce: str) -> int:
    """Write down what the child tells until it ends, and report; return its exit status."""
    pending, size, status = b"", 0, None
    while True:
        ready = select.select([book], [], [], 0.2 if status is None else 0)[0]
        chunk = os.read(book, 1 << 16) if ready else None
        if chunk:
            size += len(chunk)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                books.note(line)
            if len(pending) > MAX_LINE or size > MAX_BOOK:
                books.broken, pending = "their report was flooded", b""
                break
        elif status is not None or chunk == b"":
            break
        else:  # a grandchild may hold the book open for ever
            ended, code = os.waitpid(child, os.WNOHANG)
            status = exit_of(code) if ended else None
    if status is None:
        os.close(book)
        status = exit_of(os.waitpid(child, 0)[1])
    report = books.close(status)
    os.write(1, f"\n\x1e{nonce} {json.dumps(report)}\n".encode())
    return status if 0 <= status < 256 else UNHEALTHY


def exit_of(code: int) -> int:
    """Return an exit status, or less than zero for a signal."""
    return os.WEXITSTATUS(code) if os.WIFEXITED(code) else -os.WTERMSIG(code)


def work(ordered: int, book: int, left: list[str]) -> int:
    """Carry out the order that comes: the one thing the child does. Return the exit status."""
    with open(ordered, "rb") as file:
        order = json.loads(file.read())
    order["left"] = left
    program: dict[str, Any] = {"__name__": "orchestrator_work"}
    exec(compile(order.pop("program"), "<orchestrator>", "exec"), program)  # noqa: S102 - our own
    return int(program["work"](order, book))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
