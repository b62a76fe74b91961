"""The first N training rows as tokens: `python -m harness.planning.show_tokens N`."""

from __future__ import annotations

import sys

from harness.data.tokenization import IGNORED, encode_row
from harness.data.training_set import training_rows
from harness.errors import UserError
from harness.planning.cell import Cell
from harness.system.console import standard_streams
from harness.types import Artifact


def main(count: int) -> None:
    """Print each row's text with what is trained on in [[ ]], and its counts."""
    from pydantic import TypeAdapter

    from harness.models.language_model import load_tokenizer

    cell = TypeAdapter(Cell).validate_json(sys.stdin.read())
    tokenizer = load_tokenizer(Artifact("base", cell.model))
    assert cell.data is not None
    for row in training_rows(cell.data)[0][:count]:
        encoded = encode_row(
            tokenizer,
            row,
            max_length=cell.budget.max_length,
            loss=cell.data.loss,
            chat_template=cell.chat_template,
        )
        trained = sum(label != IGNORED for label in encoded.labels)
        # not click.echo, which drops escape sequences: they are tokens that are trained on
        print(
            f"--- row {row.id}: {len(encoded.input_ids)} tokens, {trained} trained on, "
            f"{encoded.cut} cut"
        )
        print(_marked(tokenizer, encoded.input_ids, encoded.labels))


def _marked(tokenizer: object, ids: list[int], labels: list[int]) -> str:
    text, inside = "", False
    for token, label in zip(ids, labels, strict=True):
        if (label != IGNORED) != inside:
            inside = not inside
            text += "[[" if inside else "]]"
        text += tokenizer.decode([token])  # type: ignore[attr-defined]
    return text + ("]]" if inside else "")


if __name__ == "__main__":
    with standard_streams():
        try:
            main(int(sys.argv[1]))
        except UserError as reason:
            print(" ".join(str(reason).split()), file=sys.stderr)
            sys.exit(UserError.exit_code)
