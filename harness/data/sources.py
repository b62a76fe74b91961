"""Resolves data names: bundled data, files, a mirror of the Hub, the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.data.dataset_aliases import DATA_SETS
from harness.data.readers import EXTENSIONS
from harness.errors import DataError, nearest
from harness.system.paths import expanded, no_such_file

__all__ = ["resolve"]


def resolve(
    name: str,
    *,
    base: Path,
    bundled: Mapping[str, Path],
    mirror: Path | None = None,
    split: str = "train",
    config: str | None = None,
) -> Path:
    """The file of a data name.

    In this order: a bundled name; a file, or a folder laid out as the Hub's, from `base` on; a Hub
    id `org/name[@revision]`, or a short name of one, under `mirror`, else on the Hub. DataError.
    """
    if name in bundled:
        return bundled[name]
    path = base / expanded(name)
    if path.is_file():
        return path
    if path.is_dir():
        return _split_file(path, split, config)
    if path.suffix.lower() in EXTENSIONS:
        raise DataError(no_such_file(path))
    name = DATA_SETS.get(name, name)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", name):
        raise DataError(
            f"no data '{name}': no bundled name, no file from {base} on and no Hub id: "
            f"{nearest(name, [*bundled, *DATA_SETS])}"
        )
    if mirror is None:
        from harness.system.hub import fetch_dataset

        return fetch_dataset(name, config, split)
    folder = mirror / name.partition("@")[0]  # a mirror holds one revision
    if not folder.is_dir():
        ids = [
            f"{entry.parent.name}/{entry.name}" for entry in mirror.glob("*/*") if entry.is_dir()
        ]
        raise DataError(f"no '{name}' in the mirror {mirror}: {nearest(name, ids)}")
    return _split_file(folder, split, config)


def _split_file(folder: Path, split: str, config: str | None) -> Path:
    """`<config>/<split>.*`, `<split>.*` or `data/<split>.*` in a data set's folder."""
    configs = sorted(entry.name for entry in folder.iterdir() if _splits(entry))
    if config is not None and config in configs:
        folders = [folder / config]
    elif config not in (None, "default"):
        raise DataError(f"no config '{config}' in {folder}: {nearest(str(config), configs)}")
    elif _splits(folder):
        folders = [folder]
    else:
        folders = [folder / name for name in ("default", "data") if name in configs]
        folders = folders or [folder / name for name in configs]
    if len(folders) > 1 and folders[0].name not in ("default", "data"):
        raise DataError(f"{folder} has several configs: set `config` to one of {_few(configs)}")
    splits = _splits(folders[0]) if folders else {}
    if not splits:
        raise DataError(f"no {', '.join(EXTENSIONS)} files in {folder}")
    if split not in splits:
        raise DataError(f"no split '{split}' in {folders[0]}: {nearest(split, splits)}")
    if len(splits[split]) > 1:
        names = _few([path.name for path in splits[split]])
        raise DataError(f"split '{split}' of {folders[0]} is in several files: join {names} in one")
    return splits[split][0]


def _splits(folder: Path) -> dict[str, list[Path]]:
    """The data files in a folder by their split: `train.jsonl`, `train-00000-of-00001.parquet`."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            files.setdefault(re.sub(r"-\d{5}-of-\d{5}$", "", path.stem), []).append(path)
    return files


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
