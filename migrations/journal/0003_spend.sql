-- What was spent: on each day (UTC), by all agents together, and for each task by all its attempts since it was submitted
-- (a JSON array of the same figures).
CREATE TABLE spend (
    day TEXT PRIMARY KEY,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    turns INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL
) STRICT;
ALTER TABLE tasks ADD COLUMN spent TEXT;
-- Nothing but turns was counted before.
UPDATE tasks SET spent = '[0,0,0.0,' || taken || ',0,0,0,0]'
FROM (
    SELECT tasks.id AS task_id, count(*) AS taken FROM tasks JOIN turns ON turns.task_id = tasks.id
    WHERE turns.seq > tasks.submitted_seq GROUP BY tasks.id
) WHERE task_id = tasks.id;
INSERT INTO spend SELECT substr(time, 1, 10), 0, 0, 0.0, count(*), 0, 0, 0, 0 FROM events WHERE type = 'agent.turn' GROUP BY 1;
