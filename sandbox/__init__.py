"""Isolation around the processes of an agent; stands alone and imports nothing of the orchestrator."""
