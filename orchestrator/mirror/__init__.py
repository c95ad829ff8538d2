"""The copy of the state in Valkey, for those who look there: derived from the journal, and never read back.

The invariant (J13): it never delays a commit, whatever Valkey does, and it can be made anew at any time.
`assembly` opens it where `VALKEY_URL` or `VALKEY_HOST` is set.
"""
