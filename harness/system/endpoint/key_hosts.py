"""Which hosts a key may be sent to, where a file that its owner may not have written names both.

A suite names an endpoint and the environment variable with its key. Any variable would do, and any
host: so a key goes to this machine, to the host of the provider whose name the variable has, and to
hosts that the environment names.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from harness.errors import EnvironmentLack

__all__ = ["VARIABLE", "check"]

VARIABLE = "HARNESS_KEY_HOSTS"
"""NAME@host, several with commas between them."""
PROVIDERS = {
    "OPENAI_API_KEY": "api.openai.com",
    "ANTHROPIC_API_KEY": "api.anthropic.com",
    "GEMINI_API_KEY": "generativelanguage.googleapis.com",
    "MISTRAL_API_KEY": "api.mistral.ai",
    "DEEPSEEK_API_KEY": "api.deepseek.com",
    "OPENROUTER_API_KEY": "openrouter.ai",
    "TOGETHER_API_KEY": "api.together.xyz",
    "GROQ_API_KEY": "api.groq.com",
    "FIREWORKS_API_KEY": "api.fireworks.ai",
    "HF_TOKEN": "router.huggingface.co",
}


def check(name: str | None, url: str) -> None:
    """Raise EnvironmentLack where the key in the variable `name` may not be sent to `url`."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if name is None or _is_here(host):
        return
    if host not in (PROVIDERS.get(name), *_allowed(name)):
        pairs = ",".join(filter(None, [os.environ.get(VARIABLE, "").strip(" ,"), f"{name}@{host}"]))
        raise EnvironmentLack(
            f"the key in {name} would be sent to {host}, which nothing but the suite says: allow "
            f"it with export {VARIABLE}='{pairs}', or write `key: null` where the server asks for "
            "none"
        )
    if parts.scheme != "https":
        raise EnvironmentLack(
            f"the key in {name} would go to {host} unencrypted: write https:// in its url"
        )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allowed(name: str) -> list[str]:
    pairs = (pair.strip().partition("@") for pair in os.environ.get(VARIABLE, "").split(","))
    return [host.lower() for variable, _, host in pairs if variable == name and host]
