"""The runtime `claude`: the Messages API spoken by the supervisor, its tools at work inside a sandbox."""
