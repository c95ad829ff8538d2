"""The runtimes: programs that do the thinking, behind one contract."""
