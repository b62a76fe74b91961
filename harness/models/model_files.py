"""A model's files: their defects, and the keys that depend on the library and the machine."""

from __future__ import annotations

import ast
import functools
import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_MACHINE_KEYS = frozenset(
    {
        "transformers_version",
        "is_local",
        "local_files_only",
        "name_or_path",
        "_name_or_path",
        "_model_name_or_path",
    }
)
"""Keys that depend on the library's version or the machine and change no answer."""


def set_default_mode(folder: Path) -> None:
    """Give every file of a folder the mode of a new file, by the user's umask.

    safetensors writes 0600 whatever the umask is, which a shared folder cannot use.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        new = Path(scratch) / "new"
        new.touch()
        mode = new.stat().st_mode
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def make_portable(folder: Path) -> None:
    """Remove such keys from a saved model's JSON files and give all files a new file's mode.

    The same model then has the same content hash wherever it was saved.
    """
    set_default_mode(folder)
    for file in filter(Path.is_file, folder.iterdir()):
        if file.suffix == ".json" and file.name != "tokenizer.json":
            values = json.loads(file.read_text(encoding="utf-8"))
            portable = {key: value for key, value in values.items() if key not in _MACHINE_KEYS}
            file.write_text(json.dumps(portable, indent=2) + "\n", encoding="utf-8")


# ---- defects, before anything is loaded ----------------------------------------------------------

_ENCODERS = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
_CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
_SEQUENCES = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"
_OTHER_TASKS = (
    _ENCODERS,
    _SEQUENCES,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
    "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
)
_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
_LONGEST_HEADER = 100_000_000
"""Bytes of a header that safetensors reads at most."""


def fault(folder: Path, *, trust_remote_code: bool = False, causal: bool = True) -> str | None:
    """The first defect of a model's files, as the end of a sentence with the fix; None without one.

    With `causal`, that it is no causal language model is one. Reads the JSON files and the headers
    of the weights, and imports no torch.
    """
    try:
        contents = {name: _object(folder / name) for name in _JSON if (folder / name).is_file()}
        for file in _weight_files(folder):
            tensor_header(file)
    except ValueError as error:
        return str(error)
    config = contents.get("config.json", {})
    tokenizer, settings = contents.get("tokenizer.json"), contents.get("tokenizer_config.json", {})
    if tokenizer is not None and not isinstance(tokenizer.get("model"), dict):
        return "has a broken tokenizer.json (it has no 'model'): download it again"
    if causal and (other := _no_causal_model(config, trust_remote_code)):
        return other
    return _beyond_embeddings(config, tokenizer or {}, settings, _template(folder, settings))


def _object(file: Path) -> dict[str, object]:
    """The JSON object of a file; ValueError with a message for the user for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"has a broken {file.name} ({reason}): download it again") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(
            f"has a {file.name} that holds a {kind} instead of an object: download it again"
        )
    return content


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers opens: the one file, or those that the index lists.

    Raises ValueError for an index that cannot be used.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    listed = _object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"has a broken {index.name} (it has no 'weight_map'): download it again")
    files = [folder / str(name) for name in sorted({str(name) for name in listed.values()})]
    for name, stored in listed.items():
        if (folder / str(stored)).is_file() and name not in tensor_header(folder / str(stored)):
            raise ValueError(
                f"has no tensor {name} in {stored}, where {index.name} lists it: "
                "download both again"
            )
    return [file for file in files if file.is_file()]


@functools.lru_cache(maxsize=256)
def _header(file: Path, size: int, changed: int) -> dict[str, object]:
    """The header of a safetensors file; `size` (bytes) and `changed` (ns) are the file's."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"has {file.name} of {size} bytes, which is not a safetensors file")
        header = json.loads(stream.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    needed = 8 + length + max(ends, default=0)
    if needed != size:
        raise ValueError(
            f"has {file.name} of {size} bytes where its header says {needed}: it was cut short or "
            "changed"
        )
    if not ends:
        raise ValueError(f"has {file.name} without a tensor")
    return dict(header)


def tensor_header(file: Path) -> dict[str, object]:
    """The header of a safetensors file; ValueError with a message for the user where it is broken.

    The layout is eight bytes with the header's length, the header as JSON, the tensors' bytes:
    https://github.com/huggingface/safetensors#format.
    """
    facts = file.stat()
    try:
        return _header(file, facts.st_size, facts.st_mtime_ns)
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError, ValueError) as error:
        message = str(error) if str(error).startswith("has ") else f"has a broken {file.name}"
        raise ValueError(f"{message}: download it again") from None


@functools.cache
def _auto_classes() -> dict[str, dict[str, set[str]]]:
    """Transformers' mappings: name -> model type -> names of classes; read from its source."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).parent / "models/auto/modeling_auto.py"
    mappings: dict[str, dict[str, set[str]]] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if not isinstance(target, ast.Name) or not target.id.endswith("_MAPPING_NAMES"):
            continue
        classes = mappings.setdefault(target.id, {})
        for pair in ast.walk(node):
            if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
                _add_pair(classes, pair)
    return mappings


def _add_pair(classes: dict[str, set[str]], pair: ast.Tuple) -> None:
    key, value = pair.elts
    if isinstance(key, ast.Constant):
        names = [
            constant.value for constant in ast.walk(value) if isinstance(constant, ast.Constant)
        ]
        classes.setdefault(str(key.value), set()).update(map(str, names))


def _no_causal_model(config: Mapping[str, object], trust_remote_code: bool) -> str | None:
    """Why a config.json is not of a causal language model; None where it may be one."""
    classes = _auto_classes()
    causal = classes.get(_CAUSAL)
    kind, own = config.get("model_type"), config.get("auto_map")
    if not causal or (own and trust_remote_code):
        return None
    if not isinstance(kind, str):
        return "has a config.json without a model_type: transformers cannot tell what it is"
    stated = config.get("architectures")
    names = [str(name) for name in stated] if isinstance(stated, list) else []
    description = f"holds a {names[0] if names else f'model of type {kind}'}"
    requirement = "a causal language model is needed here"
    if kind not in causal:
        if own:
            return f"{description}, whose code comes with it: set trust_remote_code: true to run it"
        return f"{description}, which transformers does not open as one: {requirement}"
    causal_names = {name for group in causal.values() for name in group}
    other_names = {
        name for key in _OTHER_TASKS for group in classes.get(key, {}).values() for name in group
    }
    if names and not causal_names & {*names} and other_names & {*names}:
        return f"{description}, which is for another task: {requirement}"
    encoder = kind in classes.get(_ENCODERS, {}) and kind not in classes.get(_SEQUENCES, {})
    if encoder and not (config.get("is_decoder") or config.get("causal")):
        description += " that reads in both directions (no is_decoder in config.json)"
        return f"{description}: {requirement}"
    return None


def _template(folder: Path, settings: Mapping[str, object]) -> str:
    """All chat templates of a folder as one text."""
    file = folder / "chat_template.jinja"
    own = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return own + json.dumps(settings.get("chat_template") or "", ensure_ascii=False)


def _beyond_embeddings(
    config: Mapping[str, object],
    tokenizer: Mapping[str, Any],
    settings: Mapping[str, object],
    template: str,
) -> str | None:
    """A message on a token that texts need and that has no embedding; None without one.

    An added token that nothing writes, such as an image's, is ignored.
    """
    inner = config.get("text_config")
    size = config.get("vocab_size") or (
        inner.get("vocab_size") if isinstance(inner, dict) else None
    )
    model = tokenizer.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(size, int) or not words:
        return None
    ids: dict[str, int] = (
        dict(words)
        if isinstance(words, dict)
        else {str(entry[0]): index for index, entry in enumerate(words)}
    )
    added = {
        str(token["content"]): int(token["id"])
        for token in tokenizer.get("added_tokens") or ()
        if isinstance(token, dict) and {"content", "id"} <= {*token}
    }
    special = {str(value) for key, value in settings.items() if key.endswith("_token")}
    needed = {text: index for text, index in ids.items() if text not in added} | {
        text: index for text, index in added.items() if text in template or text in special
    }
    beyond = {
        text: index for text, index in needed.items() if isinstance(index, int) and index >= size
    }
    if not beyond:
        return None
    text = min(beyond, key=lambda name: beyond[name])
    count = 1 + max([*ids.values(), *added.values()])
    return (
        f"has a tokenizer of {count} tokens and a model of {size} embeddings: {text!r} is number "
        f"{beyond[text]}, beyond them; resize the embeddings (model.resize_token_embeddings) and "
        "save it again, or take the tokenizer that belongs to it"
    )
