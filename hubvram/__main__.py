"""The way in: `python -m hubvram`, and the console script.

Apart from `hubvram.cli.main` so that Ctrl-C while that is imported ends like any other.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process."""
    try:
        from hubvram.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Error: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
