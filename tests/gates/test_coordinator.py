"""The coordinator's client, against coordinators that do as they should, and ones that do not."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from orchestrator.core.quality import CoordinatorAnswerBad, CoordinatorUnavailable, Opinion, QualityCheck
from orchestrator.gates.coordinator import Coordinator
from orchestrator.gates.judges import Judges
from sandbox.clock import RunningClock, StoppableClock
from tests.core.test_quality import question
from tests.kit import coordinator as kit
from tests.kit.coordinator import APPROVES, REJECTS, answer, running
from tests.kit.messages.certificate import make_certificate
from tests.kit.messages.connection import tls_of
from tests.kit.until import seen

SOUND = {"approved": True, "gate": "quality", "message": "fine"}


class Hurried(RunningClock):
    """A clock by which a hundredth of the time is enough."""

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return super().move_on_after(seconds / 100)


async def ask(url: str, *, token: str | None = None, deadline_s: float = 900.0) -> Opinion:
    """Ask a coordinator about a candidate, in a hurry."""
    judge = Coordinator(url, token, chance=lambda: 0.5)
    return await judge.check(question(), clock=Hurried(), deadline_s=deadline_s)


async def test_opinion_comes_back_and_the_question_is_the_contracts() -> None:
    with running(APPROVES, REJECTS) as coordinator:
        first = await ask(coordinator.url + "/base", token="a-token-of-ours")
        second = await ask(coordinator.url)
    assert (first.approved, first.gate, first.confidence) == (True, "quality", 0.93)
    assert (second.approved, second.gate) == (False, "coverage")
    assert "missing" in second.details
    assert coordinator.asked[0]["taskId"] == "T-1"
    assert coordinator.heads[0].startswith("POST /base/api/quality/check HTTP/1.1")
    assert "Bearer a-token-of-ours" in coordinator.heads[0]
    assert "Bearer" not in coordinator.heads[1]


@pytest.mark.parametrize(
    "trouble",
    [
        answer(b"", "500 No"),
        answer(b"", "503 No"),
        answer(b"", "429 No"),
        answer(b"", "408 No"),
        kit.hangs_up,
    ],
)
async def test_trouble_that_may_pass_is_waited_out(trouble: kit.Manner) -> None:
    with running(trouble, trouble, trouble, trouble, APPROVES) as coordinator:
        assert (await ask(coordinator.url)).approved
    assert len(coordinator.asked) == 5


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (answer(b"", "502 No"), "it answered 502"),
        (kit.hangs_up, "it closed the connection before it answered"),
        (kit.leaves_half_way, "peer closed connection without sending complete message body"),
    ],
)
async def test_trouble_that_stays_ends_after_five_tries(trouble: kit.Manner, why: str) -> None:
    match = f"coordinator_unavailable: asked 5 times; at last: {why}"
    with running(trouble) as coordinator, pytest.raises(CoordinatorUnavailable, match=match):
        await ask(coordinator.url)
    assert len(coordinator.asked) == 5


async def test_nobody_there_is_unavailable() -> None:
    with running(APPROVES) as gone:
        pass
    with pytest.raises(CoordinatorUnavailable, match="coordinator_unavailable"):
        await ask(gone.url)


BAD = {
    "no HTTP": (kit.garbage, "coordinator_bad_answer"),
    "no JSON": (answer(b"<html>hello</html>"), "no JSON object"),
    "empty": (answer(b""), "no JSON object"),
    "204": (answer(b"", "204 No Content"), "204"),
    "201": (answer(SOUND, "201 Created"), "201"),
    "401": (answer(b"", "401 No"), "401 rather than 200$"),
    "422": (
        answer({"detail": "no gate \x1b[31m 'x'"}, "422 No"),
        r"422 rather than 200: no gate \\x1b\[31m 'x'$",
    ),
    "too long": (answer(b" " * 10_000_000), "larger than"),
    "drips": (kit.drips, "did not come whole"),
    "endless head": (kit.endless_head, "coordinator_bad_answer"),
    "interim for ever": (kit.interim_for_ever, "never comes to its answer"),
    "confidence": (answer({**SOUND, "confidence": 7}), "`confidence`"),
    "twice": (answer(b'{"approved":false,"approved":true}'), "is there twice"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_answer_is_refused_at_once_by_its_reason(name: str) -> None:
    manner, why = BAD[name]
    with running(manner) as coordinator, pytest.raises(CoordinatorAnswerBad, match=why) as caught:
        await ask(coordinator.url)
    assert caught.value.detail.startswith("coordinator_bad_answer: ")
    assert len(coordinator.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_followed_nowhere(status: int) -> None:
    with running(APPROVES) as elsewhere:
        moved = answer(b"", f"{status} Moved", f"Location: {elsewhere.url}/api/quality/check")
        with running(moved) as coordinator, pytest.raises(CoordinatorAnswerBad, match="never followed"):
            await ask(coordinator.url, token="a-token-of-ours")
        assert not elsewhere.heads


async def test_mute_coordinator_is_given_up_within_the_deadline() -> None:
    with running(kit.mute) as coordinator, pytest.raises(CoordinatorUnavailable, match="within 90 s"):
        await ask(coordinator.url, deadline_s=90)
    assert len(coordinator.asked) == 1


async def test_plain_http_where_tls_was_named_is_no_answer() -> None:
    with running(APPROVES) as coordinator, pytest.raises(CoordinatorUnavailable):
        await ask(coordinator.url.replace("http:", "https:"), deadline_s=90)
    assert not coordinator.asked


async def test_certificate_that_nobody_vouches_for_is_told_and_gets_no_token(tmp_path: Path) -> None:
    server, _ = make_certificate(tmp_path)
    heard = bytearray()

    async def listen(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError, OSError):
            heard.extend(await stream.receive_some(1000))

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, listen, 0, tls_of(str(server)), host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.transport_listener.socket.getsockname()[1]
        with pytest.raises(CoordinatorUnavailable, match="certificate verify failed"):
            await ask(f"https://127.0.0.1:{port}", token="a-token-of-ours")
        nursery.cancel_scope.cancel()
    assert not heard


async def test_name_that_no_host_has_is_unavailable() -> None:
    with pytest.raises(CoordinatorUnavailable, match="label empty or too long"):
        await ask(f"http://{'a' * 70}.example")


async def test_no_try_is_made_while_the_tree_stands_still() -> None:
    clock = StoppableClock()
    with running(kit.hangs_up) as coordinator:
        judge = Coordinator(coordinator.url, chance=lambda: 0.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask_in_vain, judge, clock)
            await seen(lambda: coordinator.asked, "the first try")
            clock.stop()
            with trio.move_on_after(1.5):  # twice as long as the first pause
                await trio.sleep_forever()
            assert len(coordinator.asked) == 1
            clock.go_on()
            await seen(lambda: len(coordinator.asked) > 1, "the second try")
            nursery.cancel_scope.cancel()


async def _ask_in_vain(judge: Coordinator, clock: StoppableClock) -> None:
    await judge.check(question(), clock=clock, deadline_s=900)


async def test_candidate_is_sent_only_to_who_says_that_it_takes_it_and_never_in_the_open() -> None:
    async def enrich(plain: QualityCheck) -> QualityCheck:
        return plain.model_copy(update={"base": "b" * 40, "bundle": "AA=="})

    with running(APPROVES) as coordinator:
        for accepts, confidential in (([], True), (["bundle"], False), (["bundle"], True)):
            coordinator.health["accepts"] = accepts
            judge = Coordinator(coordinator.url, confidential=confidential)
            await judge.check(question(), clock=Hurried(), deadline_s=900, enrich=enrich)
    assert [("bundle" in asked) for asked in coordinator.asked] == [False, False, True]


async def test_coordinator_that_begins_anew_gets_the_candidate_once_it_is_there() -> None:
    async def enrich(plain: QualityCheck) -> QualityCheck:
        return plain.model_copy(update={"base": "b" * 40, "bundle": "AA=="})

    down = answer(b"", "503 No")
    with running(down, down, APPROVES) as coordinator:
        coordinator.health["accepts"] = ["bundle"]
        coordinator.healths = [down, down]
        judge = Coordinator(coordinator.url)
        opinion = await judge.check(question(), clock=Hurried(), deadline_s=900, enrich=enrich)
    assert opinion.approved
    assert [("bundle" in asked) for asked in coordinator.asked] == [False, False, True]


async def test_health_is_asked_for_once_in_a_while() -> None:
    with running(APPROVES) as coordinator:
        judge = Coordinator(coordinator.url)
        for _ in range(3):
            assert (await judge.health()).trouble == ""
        assert len(coordinator.heads) == 1
    assert (await Judges(coordinator=Coordinator(coordinator.url)).condition()).startswith("degraded: ")
    assert await Judges().condition() == "off"


async def test_gate_is_lacking_only_where_the_coordinator_says_which_it_has() -> None:
    named = ("tests", "smoke", "ai-review")
    with running(APPROVES) as coordinator:
        for gates, lacking, by_base in ((["tests"], ("ai-review",), True), ("tests", (), False)):
            coordinator.health["gates"] = gates
            judges = Judges(local=False, coordinator=Coordinator(coordinator.url))
            assert (await judges.lacking(named), await judges.go_by_base()) == (lacking, by_base)
    assert await Judges(local=False, coordinator=Coordinator(coordinator.url)).lacking(named) == ()
    assert (await Judges().lacking(named), await Judges().go_by_base()) == ((), True)


async def test_silence_is_as_long_as_questions_in_a_row_go_unanswered() -> None:
    with running(
        kit.hangs_up, kit.hangs_up, kit.hangs_up, kit.hangs_up, kit.hangs_up, APPROVES
    ) as coordinator:
        judge = Coordinator(coordinator.url)
        with pytest.raises(CoordinatorUnavailable):
            await judge.check(question(), clock=Hurried(), deadline_s=900)
        assert judge.silent_s() > 0
        await judge.check(question(), clock=Hurried(), deadline_s=900)
        assert judge.silent_s() == 0
