"""GGUF files: what their headers say, and what is wrong with them, before llama.cpp opens one.

The `gguf` package's own reader makes an array of each of some 50,000 tokens, which takes seconds,
and stops at a truncated file without saying so. The header alone is read here, in milliseconds, by
github.com/ggml-org/ggml/blob/master/docs/gguf.md; names and sizes of types are the package's.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError

__all__ = ["GgufFacts", "check_adapter", "check_file", "facts"]

_MAGIC = b"GGUF"
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_AGAIN = "download or copy it again"


@dataclass(frozen=True)
class GgufFacts:
    """What a header says; None where it does not."""

    architecture: str
    """llama.cpp's name, such as `llama` or `qwen3`."""
    kind: str
    """`model`, `adapter`, `mmproj`, `vocab`, ..."""
    name: str | None
    quantization: str | None
    """What most of its weights are stored in: F16, Q8_0, Q4_K_M, ..."""
    context_length: int | None
    """Tokens that the model was trained for."""
    vocabulary: int | None
    """Tokens."""
    chat_template: str | None
    """In Jinja."""
    bos_id: int | None
    eos_id: int | None
    add_bos: bool | None
    """Whether BOS stands before every text; None leaves it to the kind of the tokenizer."""
    causal: bool
    """Whether each token sees those before it alone, as in a language model."""
    part: tuple[int, int]
    """Which of how many files of one model, from (0, 1)."""
    bytes_needed: int
    """Where its last tensor ends."""


def check_file(path: Path) -> GgufFacts:
    """What is known of a language model's file. Raises UserError where it cannot be served.

    That is: no such file, no GGUF, truncated, or no language model.
    """
    found = _whole(path)
    refused = _not_a_language_model(found)
    if refused is not None:
        raise UserError(f"{path} is no language model: {refused}")
    if found.part[0] > 0:
        number, count = found.part
        raise UserError(f"{path} is part {number + 1} of {count}: name the first of its parts")
    return found


def check_adapter(path: Path) -> GgufFacts:
    """What is known of a LoRA file. Raises UserError for a file that is none, or is truncated."""
    found = _whole(path)
    if found.kind != "adapter":
        raise UserError(
            f"{path} is no LoRA file but a {found.kind} ({found.architecture}): make one with "
            "llama.cpp's convert_lora_to_gguf.py"
        )
    return found


def _whole(path: Path) -> GgufFacts:
    found = facts(path)
    if (size := path.stat().st_size) < found.bytes_needed:
        raise UserError(
            f"{path} is truncated: its tensors end at byte {found.bytes_needed:,}, the file at "
            f"byte {size:,}; {_AGAIN}"
        )
    return found


def _not_a_language_model(found: GgufFacts) -> str | None:
    if found.kind != "model":
        return f"the file says that it is a {found.kind}; name the model's own file"
    if not found.causal:
        return f"its architecture is {found.architecture}, an encoder"
    if found.vocabulary is None:
        return f"its architecture is {found.architecture}, and it has no tokens"
    return None


def facts(path: Path) -> GgufFacts:
    """What a file's header says. Raises UserError where there is none that can be read."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the .gguf file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
            if not start.startswith(_MAGIC):
                raise UserError(f"{path} is no GGUF file: {_what_else(start)}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _facts(_Header(content))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except _Foreign as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except (struct.error, UnicodeDecodeError):
        raise UserError(f"{path} is truncated or damaged within its header; {_AGAIN}") from None


def _what_else(start: bytes) -> str:
    if not start:
        return f"it is empty; {_AGAIN}"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch its content: git lfs pull"
    return f"it begins with {start[:4]!r} and not with {_MAGIC!r}"


class _Foreign(Exception):
    """A header of another version or byte order."""


class _Header:
    """Reads on through a file. Past its end `struct.error` is raised."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = len(_MAGIC)
        version = self._number("I")
        if version not in (2, 3):
            order = "its byte order is big-endian" if not version & 0xFFFF else f"version {version}"
            raise _Foreign(f"{order}, where little-endian GGUF of version 2 or 3 is known")
        tensors, count = self._number("Q"), self._number("Q")
        self.values: dict[str, Any] = {}
        for _ in range(count):
            key = self._text()
            self.values[key] = self._value(self._number("I"))
        self.tensors = [self._tensor() for _ in range(tensors)]
        alignment = int(self.values.get("general.alignment", 32))
        self.data = -(-self._at // alignment) * alignment
        """Where the first tensor begins."""

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._content, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._content):
            raise struct.error("past the end")

    def _text(self) -> str:
        length = self._number("Q")
        start = self._at
        self._skip(length)
        return self._content[start : self._at].decode()

    def _value(self, code: int) -> Any:
        """A value; of an array its length alone."""
        if code == _STRING:
            return self._text()
        if code == _ARRAY:
            return self._array(self._number("I"), self._number("Q"))
        if code not in _NUMBERS:
            raise struct.error("no such type")
        return self._number(_NUMBERS[code])

    def _array(self, code: int, count: int) -> int:
        if code in _NUMBERS:
            self._skip(count * struct.calcsize(f"<{_NUMBERS[code]}"))
        elif code == _STRING:
            for _ in range(count):
                self._skip(self._number("Q"))
        else:
            for _ in range(count):
                self._value(code)
        return count

    def _tensor(self) -> tuple[int, int, int]:
        """A tensor's number of elements, its type, and where it begins in the data."""
        self._text()
        elements = 1
        for _ in range(self._number("I")):
            elements *= self._number("Q")
        return elements, self._number("I"), self._number("Q")


def _facts(header: _Header) -> GgufFacts:
    values: Mapping[str, Any] = header.values
    architecture = str(values.get("general.architecture", "unknown"))
    return GgufFacts(
        architecture=architecture,
        kind=str(values.get("general.type", "mmproj" if architecture == "clip" else "model")),
        name=values.get("general.name"),
        quantization=_quantization(values.get("general.file_type")),
        context_length=values.get(f"{architecture}.context_length"),
        vocabulary=values.get("tokenizer.ggml.tokens"),
        chat_template=values.get("tokenizer.chat_template"),
        bos_id=values.get("tokenizer.ggml.bos_token_id"),
        eos_id=values.get("tokenizer.ggml.eos_token_id"),
        add_bos=values.get("tokenizer.ggml.add_bos_token"),
        causal=bool(values.get(f"{architecture}.attention.causal", True)),
        part=(int(values.get("split.no", 0)), int(values.get("split.count", 0)) or 1),
        bytes_needed=_end(header),
    )


def _quantization(code: int | None) -> str | None:
    """A file type's name, as in `Q4_K_M`; None for one that the installed `gguf` does not know."""
    from gguf.constants import LlamaFileType

    try:
        name = LlamaFileType(-1 if code is None else code).name
    except ValueError:
        return None
    return name.removeprefix("ALL_").removeprefix("MOSTLY_")


def _end(header: _Header) -> int:
    """Where the last tensor of a type whose size is known ends, in bytes."""
    from gguf.constants import GGML_QUANT_SIZES

    sizes = {int(code): size for code, size in GGML_QUANT_SIZES.items()}
    ends = [
        begin + elements // sizes[code][0] * sizes[code][1]
        for elements, code, begin in header.tensors
        if code in sizes
    ]
    return header.data + max(ends) if ends else header.data
