"""Coverage-guided fuzzing beside the test suite: ``python tests/fuzz/explore.py TARGET [libFuzzer options]``.

Needs `pip install atheris` (Linux, macOS). What it finds goes into the target's
folder of the corpus, which the suite replays: look at what is new, keep what
shows something (``-merge=1`` keeps the smallest inputs that reach as far).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]


def main() -> None:
    """Fuzz one target."""
    import atheris

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    with atheris.instrument_imports(include=["hubvram"]):
        from targets import CORPUS, TARGETS
    if name not in TARGETS:
        raise SystemExit(f"usage: explore.py {'|'.join(TARGETS)} [-max_total_time=60 ...]")
    folder = CORPUS / name
    atheris.Setup(
        [sys.argv[0], str(folder), "-max_len=4096", f"-artifact_prefix={folder}/", *sys.argv[2:]], TARGETS[name]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
