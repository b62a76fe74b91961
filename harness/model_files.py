"""What the files of a model say beside the model: the library's version and this machine."""

from __future__ import annotations

import json
from pathlib import Path

PASSING = frozenset(
    {
        "transformers_version",
        "is_local",
        "local_files_only",
        "name_or_path",
        "_name_or_path",
        "_model_name_or_path",
    }
)
"""Keys that change with the library's version or the machine, and no answer with them."""


def without_machine(folder: Path) -> None:
    """Take such keys out of a saved model's JSON files; all its files get one mode.

    The same model has the same content hash then, wherever it was saved.
    """
    mode = next(folder.glob("*.json")).stat().st_mode
    for place in filter(Path.is_file, folder.iterdir()):
        place.chmod(mode)  # safetensors writes 0600, which a shared folder cannot use
        if place.suffix == ".json" and place.name != "tokenizer.json":
            values = json.loads(place.read_text(encoding="utf-8"))
            kept = {key: value for key, value in values.items() if key not in PASSING}
            place.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
