"""What is written or shown holds none of the values that we hold."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from orchestrator.api.problem import render
from orchestrator.core import events as e
from orchestrator.core.conflict import FileConflict
from orchestrator.core.model import Phase, Reason, Verdict
from orchestrator.core.review import Category, Finding, Reviewed, Severity
from orchestrator.core.turns import said
from orchestrator.errors import RepositoryUnreachable
from orchestrator.journal.encoding import encode_payload
from orchestrator.journal.store import open_store
from orchestrator.logline import JsonLine
from orchestrator.secrets.held import MAX_OF_ALL, HeldValue, values_of_task
from orchestrator.secrets.redactor import MARK, Redactor, redactor_of
from tests.secrets.planted import chance

VALUE = 'se"c\\r/' + chance("redacted", 20)
REDACTOR = Redactor([HeldValue("GITEA_TOKEN", VALUE.encode()), HeldValue("SHORT", b"abc")])
FORMS = {
    "raw": VALUE,
    "base64": base64.b64encode(f"x{VALUE}y".encode()).decode(),
    "hex": VALUE.encode().hex(),
    "json": json.dumps(VALUE),
    "twice": json.dumps(json.dumps(VALUE)),
    "percent": "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in VALUE),
}


def test_every_form_is_taken_out_of_a_text_and_nothing_else() -> None:
    for form in ("raw", "base64", "hex", "json", "percent"):
        clean = REDACTOR.text(f"before é {FORMS[form]} after abc")
        assert MARK in clean
        assert chance("redacted", 20) not in clean
        assert clean.startswith("before é ")
        assert clean.endswith(" after abc")
    assert Redactor().text(VALUE) == VALUE


def test_rows_stay_well_formed_whatever_stands_around_a_value() -> None:
    # JSON writes a line feed as `\n`: as bytes, a value that begins with n would begin in the middle of it.
    redactor = Redactor([HeldValue("A", b"nothing-of-this")])
    rows = json.dumps(
        [[1, "a", "\nothing-of-this"], [2, "b", "x nothing-of-this y"], [3, "c", "\\nothing-of-this"]]
    )
    clean = json.loads(redactor.rows(rows))
    assert [row[2] for row in clean] == ["\nothing-of-this", f"x {MARK} y", f"\\{MARK}"]


async def test_journal_messages_and_logs_hold_no_value(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ids = {"task_id": "t", "agent_id": "a"}
    async with (
        open_store(home, home / "orchestrator.db") as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.run)
        REDACTOR.guard(store)
        fact = e.SystemStarted(
            version="1", sandbox=f"box {VALUE}", max_agents=1, queue_concurrency=1, max_queued=1
        )
        [recorded] = await store.record(fact)
        assert isinstance(recorded.event, e.SystemStarted)
        assert recorded.event.sandbox == f"box {MARK}"
        for form in FORMS.values():
            await store.logs.write("a", "stdout", f"it is {form}")
        await store.logs.wait_written()
        lines = [line.content for line in await store.logs.read("a")]
        assert len(lines) == len(FORMS)
        assert all(MARK in line for line in lines)
        nursery.cancel_scope.cancel()
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert chance("redacted", 20).encode() not in written
    turn = e.AgentTurn(
        **ids,
        turn=1,
        stop_reason="end",
        duration_ms=1.0,
        text=VALUE,
        **said(json.dumps([{"text": FORMS["raw"], "input": {VALUE: 1}}])),
    )
    clean, payload = REDACTOR.event(turn, encode_payload(turn))
    assert isinstance(clean, e.AgentTurn)
    assert payload == encode_payload(clean)
    assert clean.text == MARK
    assert clean.content == json.dumps([{"text": MARK, "input": {MARK: 1}}], separators=(",", ":"))
    assert clean.content_hash != turn.content_hash
    deep = turn.model_copy(update=said("[" * 900 + json.dumps(VALUE) + "]" * 900))
    clean, _ = REDACTOR.event(deep, encode_payload(deep))
    assert isinstance(clean, e.AgentTurn)
    assert clean.content == "[" * 900 + f'"{MARK}"' + "]" * 900


def test_problem_documents_and_the_own_log_hold_no_value() -> None:
    document = json.loads(render(RepositoryUnreachable(f"https://x:{VALUE}@host"), REDACTOR.text))
    assert document["detail"] in {f"https://x:{MARK}@host", document["title"]}
    line = JsonLine()
    line.redact = REDACTOR.text
    record = logging.makeLogRecord({"msg": f"failed with {VALUE}", "remote": VALUE, "created": 0})
    shown = json.loads(line.format(record))
    assert (shown["message"], shown["remote"]) == (f"failed with {MARK}", MARK)
    assert datetime.fromisoformat(shown["time"]) == datetime.fromtimestamp(0, UTC)


def test_of_a_tasks_variables_those_are_held_whose_name_or_form_says_that_they_are_secret() -> None:
    long = chance("held of a task", 24)
    held = ("NPM_TOKEN", "token", "AWS_SECRET_ACCESS_KEY", "apikey", "PGPASSWORD", "CLIENT_SECRETS", "DB_PWD")
    free = ("PWD", "MONKEY", "SECRET_NAME", "KEY_ID", "PUBLIC_KEY", "MAX_TOKENS_FILE", "GREETING")
    for names, count in ((held, 1), (free, 0)):
        for name in names:
            assert len(values_of_task({name: f" {long}\n"})) == count, name
    [password] = values_of_task(
        {"DATABASE": f"postgres://me:{long}@host/db", "URL_KEY": "https://host/x/y/z"}
    )
    assert (password.name, password.value) == ("options.env.DATABASE", long.encode())
    assert not values_of_task({"DB_PASSWORD": "postgres", "MAX_TOKENS": "4096"})
    many = values_of_task({f"K{n}_TOKEN": f"{n:02}{long * 1000}" for n in range(64)})
    assert sum(len(each.value) for each in many) == MAX_OF_ALL  # a client decides how many, and how long


def test_a_tasks_own_secret_is_taken_out_of_quotes_and_out_of_nothing_that_decides() -> None:
    ids = {"task_id": "gate_rejected", "agent_id": "gate_rejected"}
    fact = e.AgentFailed(**ids, reason=Reason.GATE_REJECTED, error="it said gate_rejected")
    clean, payload = redactor_of({"TOKEN": "gate_rejected"}).event(fact, encode_payload(fact))
    assert payload == encode_payload(clean)
    assert clean == fact.model_copy(update={"error": f"it said {MARK}"})


def quoting(value: str) -> Iterator[e.Event]:
    """Yield facts that quote it in all that they are made of."""
    ids = {"task_id": "t", "agent_id": "a"}
    finding = Finding(
        file="f", line=1, severity=Severity.HIGH, category=Category.LOGIC, message=value, confidence=1.0
    )
    review = Reviewed(approve=False, confidence=0.5, summary=value, findings=(finding,), model="m")
    verdict = Verdict(
        gate="tests",
        approved=False,
        message=value,
        commit="c" * 40,
        command=("pytest", "-q"),
        protected=(value,),
        output_tail=value,
        review=review,
    )
    yield e.GateRejected(**ids, verdict=verdict)
    conflict = FileConflict(path=value, kind="content", places=(value,))
    yield e.ConflictDetected(**ids, detail=value, files=(conflict,))
    yield e.PolicyViolated(**ids, rule="too-large", path=value, detail=value)
    yield e.AgentParked(**ids, message=value, until=datetime.fromtimestamp(0, UTC))
    yield e.AgentPhase(**ids, phase=Phase.WORKING, complaints=(value,), result={"summary": value})


@pytest.mark.parametrize("value", [chance("quoted", 20), '{"a":[],"b":"', '","path":"/x', "\\u0041\\u0042"])
def test_values_are_taken_out_of_whatever_facts_are_made_of(value: str) -> None:
    for redactor in (redactor_of({"TOKEN": value}), Redactor([HeldValue("TOKEN", value.encode())])):
        for fact, clean in zip(quoting(value), quoting(MARK), strict=True):
            assert redactor.event(fact, encode_payload(fact)) == (clean, encode_payload(clean))


def test_what_takes_out_a_tasks_own_secrets_is_made_in_no_time() -> None:
    began = time.process_time()
    for number in range(100):
        assert redactor_of({"TOKEN": chance(f"quick {number}", 40)}).text("nothing") == "nothing"
    assert time.process_time() - began < 0.35, "while each is made, the supervisor does nothing else"
