"""Write `docs/guide.md` and the tables of `README.zh.md`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hubvram.errors import HubvramError
from hubvram.guide import chinese, page

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write, or with ``--check`` say what differs and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m hubvram.guide", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: the one this file lies in)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    asked = parser.parse_args(argv)
    models_dir, readme = asked.root / "fixtures" / "models", asked.root / "README.zh.md"
    if not models_dir.is_dir():
        parser.error(f"{models_dir} is not there: run this in a checkout of hubvram, or name one with --root")
    all_ = page.subjects(models_dir)
    try:
        pages = {
            asked.root / "docs" / "guide.md": page.page(all_),
            readme: chinese.filled(readme.read_text(encoding="utf-8"), all_),
        }
    except HubvramError as error:
        parser.error(error.message)
    if not asked.check:
        for path, text in pages.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    sys.stderr.writelines(f"{path.name} is out of date: run `make docs`\n" for path in stale)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
