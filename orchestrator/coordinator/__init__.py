"""The coordinator as a program of its own: judges candidates for others, and hands tasks over to them."""
