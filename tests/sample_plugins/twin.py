"""Registers a method whose name a built-in has already."""

from harness import Method, hookimpl


class Twin(Method):
    name = "lora"


@hookimpl
def register_methods(register):
    register(Twin())
