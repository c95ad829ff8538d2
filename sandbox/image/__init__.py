"""Images for the podman backend: one to work with, and one made of the host's own programs for tests."""
