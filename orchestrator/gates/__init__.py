"""The checks that judge a candidate, and their verdicts."""
