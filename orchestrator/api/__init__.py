"""The HTTP surface: REST, event streams, problem documents."""
