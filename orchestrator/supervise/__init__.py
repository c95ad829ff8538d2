"""The heart: what runs, when it starts, how it ends."""
