-- Who got a slot: the next start asks for the latest of them, to go on with whose turn it is.
CREATE INDEX events_of_claims ON events (seq) WHERE type = 'task.assigned';
-- What ended last is listed first.
CREATE INDEX queue_by_end ON queue (completed_at) WHERE completed_at IS NOT NULL;
