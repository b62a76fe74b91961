"""Whether samples have the reference answers that somebody needs of them."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import DataError
from harness.types import Sample

__all__ = ["check_references"]


def check_references(
    samples: Iterable[Sample], mend: str = "write one", *, whose: str = "", file: object = None
) -> None:
    """Raise DataError for the first sample without a reference, or with a blank one.

    `mend` says what to do about it, `whose` who needs it, such as `scorer rougeL`, and `file` is
    where the rows are from, where the caller does not say it.
    """
    needs = f", which {whose} needs" if whose else ""
    for sample in samples:
        if not (sample.reference or "").strip():
            raise DataError(f"sample {sample.id} has no reference{needs}: {mend}", file=file)
