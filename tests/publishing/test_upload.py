"""An upload to a stub of the Hub: all files as they are, by the user's login, and no token kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from harness.errors import EnvironmentLack, UserError
from harness.publishing import publication, upload
from tests.conftest import ROOT
from tests.publishing.conftest import Published
from tests.publishing.hub_stub import Hub, serving

TOKEN = "hf_TestTokenThatNobodyMaySee0123"

PUSH = """\
import sys
from pathlib import Path
from harness.errors import UserError
from harness.publishing import upload
try:
    upload.check(sys.argv[2])
    print(upload.push(Path(sys.argv[1]), sys.argv[2], private=True))
except UserError as error:
    sys.exit(f"Error: {error}")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as stub:
        yield stub


def push(folder: Path, hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    """The upload in a process of its own: huggingface_hub reads its settings once."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DEBUG": "",
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), "shop/tiny"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_hub_gets_every_file_as_it_is_by_the_users_login(
    adapter: Published, hub: Hub, tmp_path: Path
) -> None:
    done = push(adapter.folder, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/shop/tiny/commit/{'a' * 40}"
    files = publication.files_of(adapter.folder)
    assert hub.files == {name: (adapter.folder / name).read_bytes() for name in files}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    (created,) = hub.created
    assert "private" in (created.get("visibility"), *created)


def test_the_token_is_in_nothing_that_is_written_or_printed(
    adapter: Published, hub: Hub, tmp_path: Path
) -> None:
    hub.refuses = 403
    done = push(adapter.folder, hub, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: --push shop/tiny: ")
    assert TOKEN not in done.stdout + done.stderr
    hub.refuses = 0
    done = push(adapter.folder, hub, tmp_path)
    assert TOKEN not in done.stdout + done.stderr
    written = [*adapter.folder.rglob("*"), *tmp_path.rglob("*")]
    assert not [f for f in written if f.is_file() and TOKEN.encode() in f.read_bytes()]
    assert not [name for name, content in hub.files.items() if TOKEN.encode() in content]


def test_without_a_login_or_a_network_nothing_is_written(
    publishing: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    arguments = ["lora", "--to", tmp_path / "new", "--license", "mit", "--push", "shop/tiny"]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    result = publishing(*arguments)
    assert isinstance(result.exception, EnvironmentLack)
    assert "hf auth login" in str(result.exception)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    result = publishing(*arguments)  # HF_HUB_OFFLINE is set
    assert "the Hub cannot be reached (HF_HUB_OFFLINE is set)" in str(result.exception)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="write OWNER/NAME"):
        upload.check("tiny")


def test_the_command_uploads_what_it_wrote(
    publishing: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(upload, "check", lambda repo: None)

    def keep(folder: Path, repo: str, *, private: bool) -> str:
        sent.append((repo, private, publication.files_of(folder)))
        return "https://hub/shop/tiny/commit/1"

    monkeypatch.setattr(upload, "push", keep)
    to = tmp_path / "new"
    result = publishing("lora", "--to", to, "--license", "mit", "--push", "shop/tiny", "--private")
    assert result.exit_code == 0, result.output
    assert "Uploaded: https://hub/shop/tiny/commit/1" in result.output
    assert sent == [("shop/tiny", True, publication.files_of(to))]
    assert "# shop/tiny" in (to / "README.md").read_text()
