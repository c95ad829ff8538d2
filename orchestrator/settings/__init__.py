"""How settings are found and read: sources (environment, file, credential) and readers (text to value)."""
