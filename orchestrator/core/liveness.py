"""Whether an agent is alive, by evidence: what it did, not how long it has been quiet or how much it printed.

Evidence is a sign of work: a turn, a tool's result, an event of its protocol, a change of its files; for a
plain program also processor time, and output that says something new. Three deadlines are held against it,
and the same call with the same result again and again is no evidence at all. Pure: time is the agent's own,
which stands still while it is frozen or parked. Called by `supervise.pulse` and `supervise.liveness`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from orchestrator.core.spec import OwnDeadlines
from orchestrator.core.words import Concern, Step

#: How often the same call with the same result, or the same two or three in turn, make a loop.
LOOP_TIMES = 8
LONGEST_CYCLE = 3
#: Lines of output that are remembered, to tell new ones from old.
_LINES = 256
#: Seconds of processor time a second that are work; a program that only waits uses less.
CPU_SHARE = 0.05


class Sign(StrEnum):
    """What an agent can be seen to do."""

    #: Its program runs; only the first prompt of a conversation waits for it.
    STARTED = "started"
    #: Its program said something in the protocol that it speaks.
    PROTOCOL = "protocol"
    #: A model's answer is in the journal.
    TURN = "turn"
    #: A tool was called, and answered.
    TOOL = "tool"
    OUTPUT = "output"
    FILES = "files"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One sign; of a tool's result also what it is known again by."""

    sign: Sign
    digest: bytes | None = None


PROTOCOL = Evidence(Sign.PROTOCOL)
STARTED = Evidence(Sign.STARTED)


def fingerprint(value: object) -> str:
    """Return what a value out of JSON is known again by, in few bytes; all that nest too deep are alike."""
    try:
        text = json.dumps(value, sort_keys=True)
    except RecursionError:
        text = "too deep"
    return sha256(text.encode()).hexdigest()


def of_tool(name: str, arguments: str, result: str) -> Evidence:
    """Return the evidence that a tool answered; all three as the agent gave and got them, or fingerprints."""
    digest = sha256()
    for part in (name, arguments, result):
        encoded = part.encode("utf-8", "replace")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return Evidence(Sign.TOOL, digest.digest())


class LoopDetector:
    """Sees the same one, two or three things repeated `times` times; remembers no more than three."""

    def __init__(self, times: int = LOOP_TIMES) -> None:
        self._times = times
        #: The last ones, the latest first.
        self._last: tuple[bytes, ...] = ()
        #: For each length of a cycle, how many in a row were as so many before.
        self._alike = [0] * LONGEST_CYCLE

    def add(self, digest: bytes) -> int | None:
        """Take in what was done; return the length of the shortest cycle that went round so often, if any."""
        for index in range(LONGEST_CYCLE):
            same = index < len(self._last) and self._last[index] == digest
            self._alike[index] = self._alike[index] + 1 if same else 0
        self._last = (digest, *self._last)[:LONGEST_CYCLE]
        for index, alike in enumerate(self._alike):
            if alike >= (self._times - 1) * (index + 1):
                return index + 1
        return None

    def forget(self) -> None:
        """Begin anew."""
        self._last, self._alike = (), [0] * LONGEST_CYCLE


class Novelty:
    """Tells output that says something new from repetition, in bounded memory."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def is_new(self, line: str) -> bool:
        """Return whether this line was not among the last different ones."""
        key = hash(line)
        new = key not in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > _LINES:
            self._seen.popitem(last=False)
        return new


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds of the agent's own time; None holds nothing against it."""

    #: From the launch of its program to the first sign.
    boot_s: float | None = None
    #: From a prompt to its answer.
    turn_s: float | None = None
    #: Without a sign.
    stall_s: float | None = None


#: The runtimes whose agents speak to us: by a protocol, or by a model that is asked through us. Of the others
#: only the launch can be seen, so that no default holds their silence against them.
SPEAKING = frozenset({"claude", "claude-code", "acp"})
STALL_S = 600.0


@dataclass(frozen=True, slots=True)
class Patience:
    """The deadlines of this orchestrator in seconds: 0 is none; without `stall_s`, that of the runtime."""

    boot_s: float = 120.0
    turn_s: float = 0.0
    stall_s: float | None = None


def deadlines_for(runtime: str, patience: Patience, asked: OwnDeadlines) -> Deadlines:
    """Return what is held against an agent: what its task asks for, else what the orchestrator does."""
    stall_s = patience.stall_s
    if stall_s is None:
        stall_s = STALL_S if runtime in SPEAKING else 0.0
    return Deadlines(
        boot_s=_first(asked.boot_seconds, patience.boot_s),
        turn_s=_first(asked.turn_seconds, patience.turn_s),
        stall_s=_first(asked.stall_seconds, stall_s),
    )


def _first(asked: float | None, default: float) -> float | None:
    return (default if asked is None else asked) or None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an agent stands with the prompt that it works on; times are those of its own clock."""

    at: float
    #: When the prompt, or what was done last to get it going, began.
    since: float
    #: When it was last seen to do something; None since its program was launched.
    seen: float | None
    #: Whether a model is being waited for.
    asking: bool = False
    #: The length of the cycle in which it goes round, 0 where it does not.
    loop: int = 0

    @property
    def worked_s(self) -> float:
        """How long it works on its prompt."""
        return self.at - self.since

    @property
    def quiet_s(self) -> float:
        """How long it was not seen to do anything."""
        return self.at - max(self.since, self.seen or self.since)


def judge(standing: Standing, deadlines: Deadlines) -> tuple[Concern, str] | None:
    """Return why the agent needs to be seen to, in a word and in a sentence; None where it does not."""
    if standing.loop:
        what = "the same tool call" if standing.loop == 1 else f"the same {standing.loop} tool calls in turn"
        return Concern.LOOP, f"{what} came to the same result {LOOP_TIMES} times"
    if _passed(deadlines.turn_s, standing.worked_s):
        return Concern.TURN, f"one prompt was worked on for {deadlines.turn_s:g} s without an answer"
    if standing.asking:
        return None
    if standing.seen is None and _passed(deadlines.boot_s, standing.worked_s):
        return Concern.BOOT, f"it gave no sign of life for {deadlines.boot_s:g} s after its launch"
    if standing.seen is not None and _passed(deadlines.stall_s, standing.quiet_s):
        return Concern.STALL, f"it was not seen to do anything for {deadlines.stall_s:g} s"
    return None


def _passed(deadline_s: float | None, since_s: float) -> bool:
    return deadline_s is not None and since_s >= deadline_s


def next_step(taken: Step | None, concern: Concern, *, listens: bool) -> Step:
    """Return what to do after what was done already; who cannot listen yet, or ever, gets no message."""
    if taken is None and listens and concern is not Concern.BOOT:
        return Step.NUDGE
    return Step.RESTART if taken in {None, Step.NUDGE} else Step.END


def is_work(cpu_s: float, over_s: float, *, only_repeats: bool) -> bool:
    """Return whether so much processor time is a sign of work; that of who only repeats itself is none."""
    return not only_repeats and over_s > 0 and cpu_s >= CPU_SHARE * over_s
