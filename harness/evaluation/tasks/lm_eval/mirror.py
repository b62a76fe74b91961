"""Data sets of the Hub, looked up in a local mirror first."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UserError


def use(mirror: Path | None) -> None:
    """Let `datasets.load_dataset("org/name", ...)` find `mirror/org/name` before the Hub.

    From then on it raises UserError, with the fix, for a data set that is in neither.
    """
    import datasets

    original = getattr(datasets.load_dataset, "original", datasets.load_dataset)

    def load_dataset(path: str, *args: object, **kwargs: object) -> object:
        local = mirror / str(path) if mirror else None
        mirrored = local is not None and local.is_dir()
        try:
            return original(str(local) if mirrored else path, *args, **kwargs)
        except Exception as error:
            raise UserError(_lacking(str(path), mirror, mirrored, error)) from error

    load_dataset.original = original  # type: ignore[attr-defined]
    datasets.load_dataset = load_dataset


def _lacking(path: str, mirror: Path | None, mirrored: bool, error: Exception) -> str:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if mirrored:
        return f"data set '{path}' of the mirror {mirror} cannot be read ({reason})"
    if mirror:
        return f"data set '{path}' is neither in the mirror {mirror} nor on the Hub ({reason})"
    return f"data set '{path}' cannot be had ({reason}); without the Hub give --mirror DIR"
