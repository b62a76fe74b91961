"""Writes docs/reference/ anew, from the code.

python -m scripts.reference            # make reference
python -m scripts.reference --check    # exit code 1 and the files' names where one is stale
"""

from __future__ import annotations

import argparse
import sys

from scripts.reference.pages import FOLDER, pages


def main() -> int:
    """Write, or name, the pages that are stale; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for name, text in pages().items():
        file = FOLDER / name
        if not file.is_file() or file.read_text("utf-8") != text:
            stale += 1
            print(f"docs/reference/{name}")
            if not check:
                file.write_text(text, "utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
