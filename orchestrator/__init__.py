"""An execution plane for coding agents: queue, check out, sandbox, judge, land."""
