"""Git: the mirror repository, the agent's worktree, the quarantine, and landing."""
