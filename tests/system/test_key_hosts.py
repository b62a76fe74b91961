"""A key goes to hosts that its owner has named, whatever a file asks for."""

from __future__ import annotations

import re

import pytest

from harness.errors import EnvironmentLack
from harness.system.endpoint import key_hosts
from harness.system.endpoint.client import url_fault


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


@pytest.mark.parametrize("before", ["", "OTHER@second.example", "OTHER@second.example, "])
def test_what_the_error_says_to_write_works_and_keeps_what_was_allowed(monkeypatch, before):
    monkeypatch.setenv("HARNESS_KEY_HOSTS", before)
    with pytest.raises(EnvironmentLack) as error:
        key_hosts.check("MY_KEY", "https://llm.example/v1")
    (written,) = re.findall(r"export HARNESS_KEY_HOSTS='(.+?)',", str(error.value))
    monkeypatch.setenv("HARNESS_KEY_HOSTS", written)
    key_hosts.check("MY_KEY", "https://llm.example/v1")
    if before:
        key_hosts.check("OTHER", "https://second.example/v1")


@pytest.mark.parametrize(
    ("name", "url"),
    [("OPENAI_API_KEY", "http://api.openai.com/v1"), ("MY_KEY", "http://llm.example/v1")],
)
def test_no_key_leaves_this_machine_unencrypted(monkeypatch, name, url):
    monkeypatch.setenv("HARNESS_KEY_HOSTS", "MY_KEY@llm.example")
    with pytest.raises(EnvironmentLack, match="unencrypted: write https"):
        key_hosts.check(name, url)


@pytest.mark.parametrize("url", ["http://evil.example[::1]/v1", "http://[::1].evil.example/v1"])
def test_brackets_hide_no_other_host(url):
    assert url_fault(url)
