"""The cache, model folders and the Hugging Face Hub.

Checks and hashes of model folders, whether the Hub can be reached, the commit of a revision, and
data sets of the Hub as JSONL files in the cache.

`datasets` is imported by a child process only (`python -m harness.system.hub dataset ...`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path

from harness.errors import EnvironmentLack, UserError
from harness.system.child_process import command
from harness.system.paths import expanded
from harness.types import ModelRef

__all__ = [
    "cache_dir",
    "cached_commit",
    "cached_folder",
    "child_environment",
    "content_hash",
    "fetch_dataset",
    "file_sha256",
    "hash_of_files",
    "lack",
    "last_line",
    "make_cache",
    "offline",
    "reachable",
    "remember",
    "revision",
    "run_module",
    "stat_key",
    "why_unreachable",
]

_HASHED = frozenset(
    {".safetensors", ".bin", ".gguf", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".py"}
)
_NOT_THE_MODEL = frozenset(
    {"training_args.bin", "trainer_state.json", "optimizer.bin", "training.json"}
)


def cache_dir() -> Path:
    """Where pulled models and data sets are kept: `$HARNESS_CACHE`, or the user's cache folder."""
    named = os.environ.get("HARNESS_CACHE")
    if named:
        return expanded(named).resolve()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(caches).resolve() / "finetune-harness"


def make_cache(folder: Path) -> Path:
    """Creates a folder of the cache; raises EnvironmentLack where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentLack(
            f"cannot write the cache {folder} ({error.strerror}); "
            "name a folder that you can write: export HARNESS_CACHE=DIR"
        ) from error
    return folder


def offline() -> bool:
    """Whether the user set the Hugging Face libraries to work offline."""
    flag = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return flag.upper() in {"1", "ON", "YES", "TRUE"}


def why_unreachable() -> str:
    """The reason why the Hub cannot be reached, for an error message."""
    return "the Hub cannot be reached" + (" (HF_HUB_OFFLINE is set)" if offline() else "")


def reachable(timeout: float = 2.0) -> bool:
    """Whether the Hub (`HF_ENDPOINT`, or the proxy to it) takes a connection in `timeout` seconds.

    False at once under `HF_HUB_OFFLINE`. Name resolution counts towards the timeout.
    """
    if offline():
        return False
    answers: list[bool] = []
    # getaddrinfo knows no timeout, so the attempt stands in a thread that may be left behind
    attempt = threading.Thread(target=lambda: answers.append(_connects(timeout)), daemon=True)
    attempt.start()
    attempt.join(timeout)
    return bool(answers and answers[0])


def _connects(timeout: float) -> bool:
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    url = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        with socket.create_connection((url.hostname or "", port), timeout):
            return True
    except (OSError, ValueError):
        return False


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with `changes`, and progress bars of the libraries off."""
    return {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **changes}


def run_module(module: str, *arguments: str, environment: dict[str, str]) -> tuple[int, str]:
    """Runs `python -m module arguments` to its end; returns its exit status and its stderr.

    A user's `datasets.py` in the current folder shadows nothing (`child_process.command`).
    """
    done = subprocess.run(
        command(module, *arguments),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    return done.returncode, done.stderr.decode(errors="replace")


def last_line(text: str) -> str:
    """The last line that is not blank, cut to 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def stat_key(files: Iterable[Path], root: Path) -> str:
    """sha256 over names, sizes and modification times: changes when a file is written anew."""
    return _digest_of_stat(files, root, ("st_size", "st_mtime_ns"))


def _change_key(files: Iterable[Path], root: Path) -> str:
    """As `stat_key`, and changes too where a file is edited and its time set back.

    Nobody sets the time of a change (ctime) back; a copy that keeps times has others.
    """
    return _digest_of_stat(files, root, ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"))


def _digest_of_stat(files: Iterable[Path], root: Path, names: tuple[str, ...]) -> str:
    """sha256 over each file's name and these fields of its `stat` result."""
    digest = hashlib.sha256()
    for file in sorted(files):
        stat = file.stat()
        values = (str(getattr(stat, name)) for name in names)
        line = "\0".join((file.relative_to(root).as_posix(), *values))
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def file_sha256(file: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _model_files(folder: Path) -> list[Path]:
    """Weights, configuration and tokenizer: no dotfiles, papers or training checkpoints."""
    files = []
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        ignored = any(part.startswith((".", "checkpoint-")) for part in parts)
        hashed = file.suffix in _HASHED and file.name not in _NOT_THE_MODEL
        if hashed and not ignored and file.is_file():
            files.append(file)
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def content_hash(folder: Path) -> str:
    """sha256 over (relative name, sha256) of the folder's weights, configuration and tokenizer.

    Kept beside a pulled folder (`<folder>.hash.json`), else under `<cache>/hashes`, and used
    again as long as no file's name, size, inode or time of modification or change differs.
    """
    folder = folder.resolve()
    if folder.parent == cache_dir() / "models":
        cache_file = folder.with_name(folder.name + ".hash.json")
    else:
        name_hash = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
        cache_file = cache_dir() / "hashes" / f"{name_hash}.json"
    files = _model_files(folder)
    key = _change_key(files, folder)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        cached = json.loads(cache_file.read_text(encoding="utf-8"))
        if cached["key"] == key:
            return str(cached["hash"])
    digest = hash_of_files(folder)
    remember(cache_file, {"key": key, "hash": digest})
    return digest


def hash_of_files(folder: Path) -> str:
    """The `content_hash` of a folder, computed from its files without the cache."""
    digest = hashlib.sha256()
    for file in _model_files(folder):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def remember(file: Path, value: object) -> None:
    """Keep a value as JSON in the cache, atomically; one that cannot be written costs time only."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        part.write_text(json.dumps(value), encoding="utf-8")
        part.replace(file)


def lack(folder: Path) -> str | None:
    """What a model folder lacks, as the end of a sentence; None where nothing is missing."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return "is an adapter, not a model: name its base model here, the adapter separately"
    if not (folder / "config.json").is_file():
        return "has no config.json, so transformers cannot load it as a model"
    weights = _lacking_weights(folder)
    if weights is not None:
        return weights
    if not any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab*", "*.tiktoken")):
        return "has no tokenizer (tokenizer.json or tokenizer.model)"
    return None


def _lacking_weights(folder: Path) -> str | None:
    """What is wrong with the weights: safetensors alone are opened, and a pickle never."""
    for pickled in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(pickled.parent.glob("*.safetensors")):
            return f"holds weights in a pickle ({pickled.relative_to(folder)}), {_NO_PICKLES}"
    index = next(folder.glob("*.safetensors.index.json"), None)
    if index is None:
        return None if any(folder.glob("*.safetensors")) else "has no weights (*.safetensors)"
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return f"has an {index.name} that cannot be read"
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        return f"lacks the weights {missing[0]} that {index.name} lists ({len(missing)} missing)"
    return None


_NO_PICKLES = (
    "which may run code when it is opened: where you trust it, write it anew as safetensors: "
    'python -c "import sys; from transformers import AutoModelForCausalLM as Model; '
    "Model.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[1])\" FOLDER"
)


def _no_safetensors(names: Iterable[str]) -> bool:
    """Whether the files of a repository hold weights, and none of them as safetensors."""
    known = [*names]
    return not any(name.endswith(".safetensors") for name in known) and any(
        name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")) for name in known
    )


def revision(kind: str, name: str, requested: str) -> str | None:
    """The commit of revision `requested` ("" for the default branch) of a Hub `model` or `dataset`.

    None where the Hub cannot be reached. Raises UserError where the Hub has no such repository or
    revision, or no safetensors of a model.
    """
    if not reachable():
        return None
    from huggingface_hub import HfApi, errors

    no_answer: type[Exception] = getattr(errors, "HTTPError", OSError)  # the HTTP library's root
    try:
        info = HfApi().repo_info(name, repo_type=kind, revision=requested or None, timeout=5)
    except errors.GatedRepoError as error:
        raise UserError(
            "it is gated: accept its terms on its page, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError("the Hub has none (if it is private: `hf auth login`)") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"the Hub has no revision {requested!r} of it") from error
    except errors.HFValidationError as error:
        raise UserError(last_line(str(error))) from error
    except (no_answer, OSError, json.JSONDecodeError):
        return None
    files = [file.rfilename for file in getattr(info, "siblings", None) or ()]
    if kind == "model" and _no_safetensors(files):
        raise UserError(f"it holds its weights in pickles alone, {_NO_PICKLES}")
    return info.sha


def cached_commit(name: str, requested: str) -> str | None:
    """The commit of a model that lies whole in the local Hugging Face cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=requested or None)
    if not isinstance(config, str) or lack(Path(config).parent) is not None:
        return None
    return Path(config).parent.name


def cached_folder(model: ModelRef) -> Path | None:
    """Where a model's config.json lies: its folder, or its commit's in the Hugging Face cache.

    None where it is not on this machine. Other files may be missing in the cache.
    """
    if (Path(model.path) / "config.json").is_file():
        return Path(model.path)
    if model.revision is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    return Path(config).parent if isinstance(config, str) else None


def fetch_dataset(name: str, config: str | None, split: str, *, mirror: Path | None = None) -> Path:
    """A split of a data set as JSONL in the cache, keyed by name, config, split and revision.

    `name` is a Hub id (`org/name`, or `org/name@revision`); `<mirror>/<name>` is taken where it
    is a folder. Without network the newest copy in the cache is taken. Raises UserError with the
    last line of the child's error.
    """
    name, _, requested = name.partition("@")
    local = mirror / name if mirror is not None else None
    if local is not None and local.is_dir():
        source = str(local.resolve())
        files = [file for file in local.rglob("*") if file.is_file()]
        commit = "mirror-" + stat_key(files, local)[:16]
    else:
        source, commit = name, _dataset_commit(name, requested)
    identity = "\0".join((source, config or "", split, requested))
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    slug = re.sub(r"[^\w.-]+", "--", "--".join(filter(None, (name, config, split))))
    folder = cache_dir() / "datasets" / f"{slug}-{key}"
    cached = _cached(folder, commit)
    if cached is not None:
        return cached
    target = make_cache(folder) / f"{commit or 'unknown'}.jsonl"
    commit_to_load = (commit or requested) if source == name else ""
    _load_in_child(name, source, config, split, commit_to_load, target)
    return target


def _dataset_commit(name: str, requested: str) -> str:
    """The commit of revision `requested`, or "" where it is unknown."""
    if re.fullmatch(r"[0-9a-f]{40}", requested):
        return requested
    try:
        return revision("dataset", name, requested) or ""
    except UserError as error:
        raise UserError(
            f"data set {name!r}: {error}; give a folder that holds it with --mirror DIR"
        ) from error


def _cached(folder: Path, commit: str) -> Path | None:
    """The copy of that commit, or the newest one where no commit is known."""
    if commit:
        exact = folder / f"{commit}.jsonl"
        return exact if exact.is_file() else None
    copies = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    return copies[-1] if copies else None


def _load_in_child(
    name: str, source: str, config: str | None, split: str, commit: str, target: Path
) -> None:
    hub_needed = source == name
    cut_off = hub_needed and not reachable()
    changes = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if cut_off else {}
    status, stderr = run_module(
        "harness.system.hub",
        *("dataset", source, config or "", split, str(target), commit),
        environment=child_environment(**changes),
    )
    if status == 0 and target.is_file():
        return
    subject = f"data set {name!r} (config {config or 'default'}, split {split})"
    reason = f"{why_unreachable()} and " if cut_off else ""
    fix = (
        "give a folder that holds it with --mirror DIR"
        if hub_needed
        else f"check the files in {source}"
    )
    raise UserError(f"{subject} cannot be loaded: {reason}{last_line(stderr)}; {fix}")


def write_dataset(source: str, config: str, split: str, target: Path, commit: str) -> None:
    """Loads a split with `datasets` and writes it as JSONL, atomically. For the child process."""
    from datasets import load_dataset

    rows = load_dataset(source, config or None, split=split, revision=commit or None)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with part.open("w", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _plain(value: object) -> object:
    """Dates as ISO text; TypeError for any other type that JSON lacks."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a column holds {type(value).__name__}, which JSONL cannot")


def main(arguments: list[str]) -> int:
    """`python -m harness.system.hub dataset SOURCE CONFIG SPLIT DEST COMMIT`."""
    command, source, config, split, target, commit = arguments
    if command != "dataset":
        raise SystemExit(f"unknown command {command!r}")
    write_dataset(source, config, split, Path(target), commit)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
