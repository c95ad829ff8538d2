-- What agents print; no truth, so it lies in a file of its own that commits without waiting for the disk.
-- Ids are given by the writer and never again, so that a reader can follow by id.
CREATE TABLE agent_logs (
    id INTEGER PRIMARY KEY,
    agent_id TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    stream TEXT NOT NULL,
    content TEXT NOT NULL
) STRICT;
CREATE INDEX agent_logs_of_agent ON agent_logs (agent_id, id);

-- How much each agent has written, so that its ceiling outlives a restart.
CREATE TABLE log_totals (
    agent_id TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    truncated INTEGER NOT NULL
) STRICT;
