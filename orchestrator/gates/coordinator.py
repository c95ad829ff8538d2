"""The quality coordinator: a judge somewhere else, asked over HTTP (contract part 6).

The invariant: a question has an answer that keeps to the contract, or ends as `CoordinatorUnavailable` or
`CoordinatorAnswerBad`, within bounds of time and bytes, whatever the far side does. No redirect is followed,
a certificate is always checked, and the token goes nowhere but to the host that the operator named. Time is
the asking tree's own: a freeze stops the tries, a kill cuts them. Callers: `supervise.judging` (which asks),
the readiness check and `doctor`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from orchestrator.client_http import Address, Answer, Broken, Response, open_answer
from orchestrator.core.quality import (
    MAX_ANSWER_BYTES,
    MAX_RETRY_AFTER_S,
    UPLOAD_BYTES_PER_S,
    CoordinatorAnswerBad,
    CoordinatorUnavailable,
    Opinion,
    QualityCheck,
    pause_s,
    read_opinion,
    retry_after,
)
from orchestrator.core.strict_json import NotJson, parse_object
from orchestrator.core.text import escaped
from sandbox.clock import Clock

CHECK_PATH, HEALTH_PATH = "/api/quality/check", "/health"
#: From the head of an answer to its end: what drips is no answer.
BODY_S = 30.0
HEALTH_S = 3.0
#: For what an answer says beside a status that refuses.
WHY_S = 5.0
MAX_HEALTH_BYTES = 64 * 1024
#: Of a question that did not arrive in time, and of one that comes while too many wait.
PASSING = frozenset({408, 429})
#: How long the readiness check believes what it last heard.
FRESH_S = 5.0
#: Two unanswered questions belong to one silence where no more than so much lies between them.
SILENCE_S = 300.0
#: What a coordinator's `/health` says under `accepts` if it wants the candidate itself.
BUNDLE = "bundle"

#: Adds to a question what only some coordinators take.
Enrich = Callable[[QualityCheck], Awaitable[QualityCheck]]


class _Passing(Exception):
    """A try failed for a reason that may pass."""

    def __init__(self, why: str, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Health:
    """What a coordinator says of itself; `trouble` is empty where it is well."""

    trouble: str = ""
    accepts: frozenset[str] = frozenset()
    #: The gates that it has for any repository, where it says so: others it finds in the base, as we do.
    gates: frozenset[str] | None = None


class Coordinator:
    """The coordinator that the operator named."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        confidential: bool = True,
        patience_s: float = 0.0,
        chance: Callable[[], float] = random.random,
        pause: Callable[[int, float, float | None, float], float | None] = pause_s,
    ) -> None:
        """`confidential` says that nobody on the way can read what is sent: only then are candidates.

        A coordinator may put us off for `patience_s` seconds, where that is longer than it may anyhow.
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": "orchestrator", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.url = url
        self._address = Address(url, None, headers)
        self._confidential = confidential
        self._longest_s = max(patience_s, MAX_RETRY_AFTER_S)
        self._chance = chance
        self._pause = pause
        self._seen: tuple[float, Health] | None = None
        #: When the first and the last question of this silence went unanswered.
        self._silent: tuple[float, float] | None = None

    async def check(
        self, question: QualityCheck, *, clock: Clock, deadline_s: float, enrich: Enrich | None = None
    ) -> Opinion:
        """Return what the coordinator thinks of a candidate.

        There are `deadline_s` seconds, and beside them those that the question may take on its way. Raises
        `CoordinatorUnavailable` where five tries, or all that time, brought no answer, and
        `CoordinatorAnswerBad` for one that cannot be relied on; both say why in one line.
        """
        began = trio.current_time()
        try:
            opinion = await self._ask_in_time(question, clock, deadline_s, enrich)
        except CoordinatorUnavailable:
            goes_on = self._silent is not None and began - self._silent[1] < SILENCE_S
            since = self._silent[0] if goes_on and self._silent is not None else began
            self._silent = (since, trio.current_time())
            raise
        self._silent = None
        return opinion

    def silent_s(self) -> float:
        """Return for how many seconds it has answered no question; 0 where it did answer the last."""
        return 0.0 if self._silent is None else self._silent[1] - self._silent[0]

    async def _enriched(self, question: QualityCheck, enrich: Enrich | None) -> tuple[bytes, bool]:
        """Return the question as it is sent, and whether what it should hold is known."""
        if enrich is None or not self._confidential:
            return question.body(), True
        health = await self.health(trusted=False)
        if BUNDLE in health.accepts:
            question = await enrich(question)
        return question.body(), not health.trouble

    async def _ask_in_time(
        self, question: QualityCheck, clock: Clock, deadline_s: float, enrich: Enrich | None
    ) -> Opinion:
        asked, failures, upload_s = clock.now(), 0, 0.0
        ends = False
        while not ends:
            ends, body, known = True, None, True
            with clock.move_on_after(deadline_s + upload_s - (clock.now() - asked)):
                body, known = await self._enriched(question, enrich)
            if body is None:
                break
            upload_s = len(body) / UPLOAD_BYTES_PER_S
            with clock.move_on_after(deadline_s + upload_s - (clock.now() - asked)):
                opinion = await self._ask_patiently(body, clock, failures, once=not known)
                if opinion is not None:
                    return opinion
                failures, ends = failures + 1, False
        within_s = deadline_s + upload_s
        raise CoordinatorUnavailable(f"coordinator_unavailable: no answer within {within_s:.0f} s")

    async def _ask_patiently(self, body: bytes, clock: Clock, failures: int, *, once: bool) -> Opinion | None:
        """Return the opinion; None after one more try that failed and its pause, where that is all."""
        while True:
            try:
                return read_opinion(await self._ask(body, clock))
            except CoordinatorAnswerBad as error:
                raise CoordinatorAnswerBad(f"coordinator_bad_answer: {error.detail}") from None
            except _Passing as error:
                failures += 1
                wait_s = self._pause(failures, self._chance(), error.retry_after_s, self._longest_s)
                if wait_s is None:
                    why = escaped(f"{error}")[:500]
                    told = f"coordinator_unavailable: asked {failures} times; at last: {why}"
                    raise CoordinatorUnavailable(told) from error
            with clock.move_on_after(wait_s):
                await trio.sleep_forever()
            if once:
                return None

    async def _ask(self, body: bytes, clock: Clock) -> bytes:
        """Return the body of an answer of status 200."""
        try:
            answer = await self._open("POST", CHECK_PATH, body)
            try:
                if answer.status != 200:
                    raise _refused(answer, await _why(answer, clock))
                return await _whole(answer, clock)
            finally:
                answer.close_nowait()
        except Broken as error:
            if error.garbled:
                raise CoordinatorAnswerBad(escaped(str(error))[:500]) from error
            raise _Passing(str(error)) from error

    async def _open(self, method: str, path: str, body: bytes = b"") -> Answer:
        headers = {"Content-Type": "application/json"} if body else {}
        return await open_answer(
            self._address, self._address.target(path, {}), headers, method=method, body=body
        )

    async def health(self, *, trusted: bool = True) -> Health:
        """Return how the coordinator is, now or a few seconds ago; never raises for what it does.

        What was wrong a few seconds ago may be right again, where that is not to be `trusted`.
        """
        now = trio.current_time()
        if self._seen is None or now - self._seen[0] > FRESH_S or not (trusted or not self._seen[1].trouble):
            self._seen = (now, await self._look())
        return self._seen[1]

    async def _look(self) -> Health:
        try:
            with trio.move_on_after(HEALTH_S):
                answer = await self._open("GET", HEALTH_PATH)
                try:
                    return _health_of(await answer.read_all(MAX_HEALTH_BYTES))
                finally:
                    answer.close_nowait()
        except Broken as error:
            return Health(escaped(str(error))[:200])
        return Health(f"no answer within {HEALTH_S:g} s")


def _refused(answer: Answer, why: str) -> _Passing | CoordinatorAnswerBad:
    """Return what a status means that is not the one of an answer."""
    status = answer.status
    if status in PASSING or status >= 500:
        asked_s = retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
        return _Passing(f"it answered {status}{why}", asked_s)
    if 300 <= status < 400:
        return CoordinatorAnswerBad(f"it answered {status}, a redirect, which is never followed")
    return CoordinatorAnswerBad(f"it answered {status} rather than 200{why}")


async def _why(answer: Answer, clock: Clock) -> str:
    """Return what a problem document says, where one came; bounded, and cleaned."""
    said = None
    with clock.move_on_after(WHY_S), suppress(Broken, NotJson):  # the status alone says enough
        said = parse_object((await answer.read_all(MAX_HEALTH_BYTES)).content).get("detail")
    return f": {escaped(said)[:300]}" if isinstance(said, str) and said else ""


async def _whole(answer: Answer, clock: Clock) -> bytes:
    with clock.move_on_after(BODY_S):
        return (await answer.read_all(MAX_ANSWER_BYTES)).content
    raise CoordinatorAnswerBad(f"its answer did not come whole within {BODY_S:g} s")


def _health_of(response: Response) -> Health:
    if response.status != 200:
        return Health(f"it answered {response.status}")
    try:
        told = parse_object(response.content)
    except NotJson:  # any 200 will do
        return Health()
    return Health(accepts=_names(told.get("accepts")) or frozenset(), gates=_names(told.get("gates")))


def _names(value: object) -> frozenset[str] | None:
    """Return the names in a list of what a coordinator says, None for what is no list."""
    return frozenset(each for each in value if isinstance(each, str)) if isinstance(value, list) else None
