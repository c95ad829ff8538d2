"""The demo: three agents at work on a repository made for them."""
