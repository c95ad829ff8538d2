-- A task that was handed in to be dispatched, and how far it has come. The key makes handing it over twice the same as once.
CREATE TABLE dispatches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'dispatched', 'rejected', 'failed')),
    tries INTEGER NOT NULL DEFAULT 0,
    agent_id TEXT,
    error TEXT,
    taken_at TEXT NOT NULL,
    settled_at TEXT
) STRICT;

CREATE INDEX dispatches_by_state ON dispatches (state, number);
