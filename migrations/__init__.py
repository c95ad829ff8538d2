"""The schema as numbered SQL files, one folder a database; `journal.migration` applies each once, in order.

A file that has been released never changes: a change is a further file.
"""
