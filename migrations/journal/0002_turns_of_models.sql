-- A prompt may take several turns of a model: which one it belongs to, whose answer it is, and what it cost.
ALTER TABLE turns ADD COLUMN prompt INTEGER;
ALTER TABLE turns ADD COLUMN model TEXT;
ALTER TABLE turns ADD COLUMN input_tokens INTEGER;
ALTER TABLE turns ADD COLUMN output_tokens INTEGER;
ALTER TABLE turns ADD COLUMN cache_read_tokens INTEGER;
ALTER TABLE turns ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE turns ADD COLUMN cost_usd REAL;
UPDATE turns SET prompt = turn;

-- What was said to a model and by it: too long for the journal, whose event of the same `seq` has its SHA-256
-- (`contentHash`). No fold: it is there from the transaction of its event on.
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,
    agent_id TEXT NOT NULL,
    content TEXT NOT NULL
) STRICT;
CREATE INDEX messages_of_agent ON messages (agent_id, seq);
