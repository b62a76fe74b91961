"""A key goes to hosts that its owner has named, whatever a file asks for."""

from __future__ import annotations

import os
import re

import pytest

from harness.errors import EnvironmentLack
from harness.system.endpoint import key_hosts


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (None, "https://anywhere.example/v1"),
        ("MY_KEY", "http://127.0.0.1:8000/v1"),
        ("MY_KEY", "http://127.9.9.9:8000/v1"),
        ("MY_KEY", "http://[::1]:8000/v1"),
        ("MY_KEY", "http://localhost:8000/v1"),
        ("OPENAI_API_KEY", "https://api.openai.com/v1"),
        ("OPENAI_API_KEY", "https://API.openai.com/v1"),
        ("MY_KEY", "https://llm.example/v1"),
        ("OTHER", "https://second.example:8443/v1"),
    ],
)
def test_a_key_goes_where_its_owner_lets_it(monkeypatch, name, url):
    monkeypatch.setenv("HARNESS_KEY_HOSTS", "MY_KEY@llm.example, OTHER@second.example")
    key_hosts.check(name, url)


@pytest.mark.parametrize(
    ("name", "url", "host"),
    [
        ("AWS_SECRET_ACCESS_KEY", "https://collect.example/v1", "collect.example"),
        ("OPENAI_API_KEY", "https://collect.example/v1", "collect.example"),
        ("OPENAI_API_KEY", "https://api.openai.com.collect.example/v1", None),
        ("OPENAI_API_KEY", "https://api.mistral.ai/v1", "api.mistral.ai"),
        ("MY_KEY", "https://second.example/v1", "second.example"),  # it is of another key
        ("MY_KEY", "https://sub.llm.example/v1", "sub.llm.example"),
        ("MY_KEY", "http://127.0.0.1.collect.example/v1", None),
        ("MY_KEY", "http://localhost.collect.example/v1", None),
        ("MY_KEY", "http://192.168.1.5/v1", "192.168.1.5"),
    ],
)
def test_and_nowhere_else(monkeypatch, name, url, host):
    monkeypatch.setenv("HARNESS_KEY_HOSTS", "MY_KEY@llm.example, OTHER@second.example")
    with pytest.raises(EnvironmentLack, match=f"the key in {name} would be sent to") as error:
        key_hosts.check(name, url)
    assert host is None or f"sent to {host}, " in str(error.value)


def test_what_the_error_says_to_write_works(monkeypatch):
    monkeypatch.delenv("HARNESS_KEY_HOSTS", raising=False)
    with pytest.raises(EnvironmentLack) as error:
        key_hosts.check("MY_KEY", "https://llm.example/v1")
    (written,) = re.findall(r"export (\S+=\S+?),", str(error.value))
    name, _, value = written.partition("=")
    monkeypatch.setitem(os.environ, name, value)
    key_hosts.check("MY_KEY", "https://llm.example/v1")
