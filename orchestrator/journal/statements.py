"""The SQL that changes the journal: one statement a table, with a JSON array of rows for its one argument.

Row by row, the writer thread would fight the event loop for the interpreter at every row. Called by `group`.
"""

from __future__ import annotations

from datetime import datetime

from orchestrator.journal.encoding import dump, iso_cached


def expiry(before: datetime) -> tuple[str, str]:
    """Return the statement that forgets the receipts from before the moment."""
    return "DELETE FROM idempotency WHERE created_at < (?->>0)", dump([iso_cached(before)])


def _insert(table: str, columns: str, conflict: str = "") -> str:
    values = ", ".join(f"value->>{number}" for number in range(len(columns.split(","))))
    return f"INSERT INTO {table} ({columns}) SELECT {values} FROM jsonb_each(?) WHERE true {conflict}"  # noqa: S608


def _upsert(table: str, columns: str, key: str, *, fixed: str = "", kept: str = "") -> str:
    """Return an upsert that leaves `fixed` columns alone, and `kept` ones where the new value is null."""
    changes = [
        f"{name} = coalesce(excluded.{name}, {name})"
        if name in kept.split(", ")
        else f"{name} = excluded.{name}"
        for name in columns.split(", ")
        if name not in {key, *fixed.split(", ")}
    ]
    return _insert(table, columns, f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(changes)}")


EVENTS = _insert("events", "seq, id, type, time, agent_id, task_id, data, hash")
INDEX = (
    "INSERT INTO events_of_task (task_id, seq) SELECT task_id, seq FROM events, (SELECT ? AS span)"
    " WHERE seq > span->>0 AND seq <= span->>1 AND task_id IS NOT NULL ORDER BY task_id, seq"
)
AGENTS = _upsert(
    "agents",
    "id, task_id, container_id, status, agent_type, started_at, completed_at, exit_code, error, metadata,"
    " attempt, phase, reason, clean, spawned_at, spawned_seq, last_seq",
    "id",
    fixed="task_id, agent_type, attempt, spawned_at, spawned_seq",
    kept="container_id, exit_code",
)
AGENTS_CHANGED = (
    "UPDATE agents SET container_id = coalesce(value->>1, container_id),"
    " exit_code = coalesce(value->>2, exit_code), metadata = value->>3, phase = value->>4,"
    " last_seq = value->>5 FROM jsonb_each(?) WHERE agents.id = value->>0"
)
TASKS = _upsert(
    "tasks",
    "id, title, description, status, repo, repos, assigned_agent_id, attempt, priority, submitted_at,"
    " completed_at, reason, error, metadata, spent, submitted_seq, last_seq",
    "id",
    kept="description, submitted_seq",
)
QUEUE = _upsert(
    "queue",
    "id, task_id, status, queued_at, completed_at, agent_id, priority, not_before, position",
    "id",
    fixed="task_id, queued_at, agent_id, priority, position",
)
SPEND = _upsert(
    "spend",
    "day, input_tokens, output_tokens, cost_usd, turns, tool_calls, cache_read_tokens, cache_write_tokens,"
    " cache_write_1h_tokens",
    "day",
)
SETTINGS = _upsert("queue_settings", "key, value", "key")
VERDICTS = _insert(
    "verdicts",
    "seq, agent_id, task_id, gate, approved, round, commit_id, exit_code, duration_ms, tests",
)
TURNS = _insert(
    "turns",
    "seq, agent_id, task_id, turn, stop_reason, exit_code, duration_ms, prompt, model, input_tokens,"
    " output_tokens, cache_read_tokens, cache_write_tokens, cost_usd",
)
MESSAGES = _insert("messages", "seq, agent_id, content")
# The API and the store see to it that no key is used twice; were one, that is no reason to break the journal.
RECEIPTS = _upsert("idempotency", "key, fingerprint, status, body, created_at", "key")
AUDIT = _insert("audit", "seq, time, actor, action, target, outcome, detail, hash")
