"""The command line: one module a group of commands, each a thin skin over `orchestrator.client`."""
