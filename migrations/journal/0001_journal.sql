-- The journal: the only truth. Numbered without gaps; `hash` chains each event to its predecessor.
-- `data` is the exact text that was hashed.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    time TEXT NOT NULL,
    agent_id TEXT,
    task_id TEXT,
    data TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
-- Which events are about which task, up to the last multiple of 1,024: see `orchestrator/journal/group.py`.
CREATE TABLE events_of_task (
    task_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (task_id, seq)
) STRICT, WITHOUT ROWID;

-- All tables below are the fold of the journal, written in the same transaction; `last_seq` is the event that a row
-- was last changed by.
CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    container_id TEXT,
    status TEXT NOT NULL,
    agent_type TEXT NOT NULL,
    started_at TEXT,
    completed_at TEXT,
    exit_code INTEGER,
    error TEXT,
    logs TEXT,
    metadata TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    phase TEXT,
    reason TEXT,
    clean INTEGER NOT NULL,
    spawned_at TEXT NOT NULL,
    spawned_seq INTEGER,
    last_seq INTEGER NOT NULL
) STRICT;
CREATE INDEX agents_by_age ON agents (spawned_seq);
CREATE INDEX agents_by_status ON agents (status, spawned_seq);
CREATE INDEX agents_of_task ON agents (task_id, attempt);
CREATE INDEX agents_not_clean ON agents (id) WHERE clean = 0;

-- The specification is in the event `submitted_seq`, once.
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL,
    repo TEXT NOT NULL,
    repos TEXT NOT NULL,
    execution_plan TEXT,
    assigned_agent_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    submitted_at TEXT NOT NULL,
    completed_at TEXT,
    reason TEXT,
    error TEXT,
    metadata TEXT,
    submitted_seq INTEGER,
    last_seq INTEGER NOT NULL
) STRICT;
CREATE INDEX tasks_by_age ON tasks (submitted_seq);
CREATE INDEX tasks_by_status ON tasks (status, submitted_seq);

-- One row an agent that was ever queued. `position` orders equal priorities; it is no count of those before.
CREATE TABLE queue (
    id INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    status TEXT NOT NULL,
    queued_at TEXT NOT NULL,
    completed_at TEXT,
    agent_id TEXT NOT NULL,
    priority INTEGER NOT NULL,
    not_before TEXT
) STRICT;
CREATE INDEX queue_by_status ON queue (status, priority DESC, position);

CREATE TABLE queue_settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- The evidence of a verdict, and the rest of a turn, is in the event of the same `seq`.
CREATE TABLE verdicts (
    seq INTEGER PRIMARY KEY,
    agent_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    gate TEXT NOT NULL,
    approved INTEGER NOT NULL,
    round INTEGER NOT NULL,
    commit_id TEXT NOT NULL,
    exit_code INTEGER,
    duration_ms REAL NOT NULL,
    tests INTEGER
) STRICT;
CREATE INDEX verdicts_of_agent ON verdicts (agent_id, seq);

CREATE TABLE turns (
    seq INTEGER PRIMARY KEY,
    agent_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    stop_reason TEXT NOT NULL,
    exit_code INTEGER,
    duration_ms REAL NOT NULL
) STRICT;
CREATE INDEX turns_of_agent ON turns (agent_id, seq);

-- Not folds: what clients said and did.
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    revoked_at TEXT,
    last_used_at TEXT
) STRICT;
