"""The durable truth: the append-only journal, the tables beside it, and the word of what is committed."""
