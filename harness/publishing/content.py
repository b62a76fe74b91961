"""The text files of a published folder: each follows from its records and `publication.json`."""

from __future__ import annotations

from collections.abc import Mapping

from harness.publishing import benchmarks, card, every_eval_ever
from harness.publishing.publication import CARD, Publication
from harness.record import Record
from harness.results.store import Rows


def derived(
    publication: Publication, record: Record, base: Record | None, rows: Mapping[str, Rows]
) -> dict[str, str]:
    """Relative name -> text, of the card, the Hub's results and the Every Eval Ever records.

    `rows` are the cell's samples by suite: none where they are not published.
    """
    return {
        CARD: card.text(publication, record, base),
        **benchmarks.files(publication, record),
        **every_eval_ever.files(publication, record, rows),
    }
