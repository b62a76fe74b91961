"""Implements a hook that there is not."""

from harness import hookimpl


@hookimpl
def register_method(register):
    register(None)
