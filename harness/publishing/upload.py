"""Uploads a published folder with the user's own login; the token is read, and never written."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import EnvironmentLack, UserError
from harness.system import hub

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check(repo: str) -> None:
    """Raise UserError before anything is written where nothing can be uploaded."""
    if not _REPO.fullmatch(repo):
        raise UserError(f"--push {repo}: write OWNER/NAME")
    from huggingface_hub import get_token

    if get_token() is None:
        raise EnvironmentLack("--push: not logged in to the Hub; run: hf auth login")
    if not hub.reachable():
        raise UserError(f"--push {repo}: {hub.why_unreachable()}; leave --push out, upload later")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Make the repository where it is missing, upload the folder as one commit; the commit's URL.

    Raises UserError with what the Hub said.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi(library_name="finetune-harness")
    no_answer: type[Exception] = getattr(errors, "HTTPError", OSError)  # the HTTP library's root
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Published by finetune-harness",
        )
    except (errors.HfHubHTTPError, no_answer, OSError, ValueError, KeyError) as error:
        raise UserError(f"--push {repo}: {without_token(hub.last_line(str(error)))}") from None
    return str(commit.commit_url)


def without_token(text: str) -> str:
    """A text without the user's token, whatever put it there."""
    from huggingface_hub import get_token

    token = get_token()
    text = text.replace(token, "***") if token else text
    return re.sub(r"hf_[A-Za-z0-9]{8,}", "***", text)
