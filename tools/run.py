"""`make run`: the main job on the Hub, or on the repo's own fixtures where the Hub cannot be reached."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from hubvram.sources.loopback import LoopbackHub, serving
from hubvram.sources.refs import effective_endpoint

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "models"


def reachable(endpoint: str) -> bool:
    """Whether anything at all answers there, through a proxy where one is set."""
    try:
        urllib.request.urlopen(f"{endpoint}/robots.txt", timeout=5).close()  # noqa: S310 - an http(s) URL, checked
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def hubvram(repo: str, **environment: str) -> int:
    """Run the command line and give its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "hubvram", repo], check=False, env={**os.environ, **environment}
    ).returncode


def main(repo: str) -> int:
    """Run the job; the exit code."""
    endpoint = effective_endpoint()
    if reachable(endpoint):
        return hubvram(repo)
    hub = LoopbackHub(FIXTURES)
    sys.stderr.write(
        f"{endpoint} cannot be reached: the fixtures of this checkout are served on this machine instead.\n"
    )
    with serving(hub.answer) as address, tempfile.TemporaryDirectory() as folder:
        return hubvram(repo, HF_ENDPOINT=address, HUBVRAM_DB=str(Path(folder, "hubvram.db")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
