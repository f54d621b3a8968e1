"""Run the examples of the README on the repo's fixtures, and write what they print below them.

    python tools/readme.py            write
    python tools/readme.py --check    say what differs, and exit with 1

In a ``console`` block each line that begins with ``$`` is run in a shell, in
order, with one cache for all; a ``python`` block is run in a process of its
own and has only to succeed.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from hubvram.sources.loopback import LoopbackHub, serving

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
GRANTED = "hf_fixture"
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class ExampleError(RuntimeError):
    """An example does not run."""


def run(command: list[str], folder: str, environment: dict[str, str]) -> str:
    """What a command prints, stderr in between as on a terminal."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise ExampleError(f"{command[-1]}\nexits with {done.returncode}:\n{done.stdout}")
    return done.stdout


def rewritten(text: str) -> str:
    """The README with the output of its examples as it is now.

    Raises:
        ExampleError: if an example fails.
    """
    hub = LoopbackHub(ROOT / "fixtures" / "models", granted=frozenset({GRANTED}))
    with serving(hub.answer) as endpoint, tempfile.TemporaryDirectory() as folder:
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": GRANTED,
            "HF_HOME": folder,
            "HUBVRAM_DB": str(Path(folder, "hubvram.db")),
            "NO_COLOR": "1",
        }

        def example(match: re.Match[str]) -> str:
            kind, body = match.groups()
            if kind == "python":
                run([sys.executable, "-W", "error", "-c", body], folder, environment)
                return match.group()
            parts = []
            for line in body.splitlines():
                if line.startswith("$ "):
                    output = run(["sh", "-c", line[2:]], folder, environment)
                    parts.append(f"{line}\n{output}")
            return "```console\n" + "\n".join(parts).replace("\n\n$ ", "\n$ ") + "```"

        return _BLOCK.sub(example, text)


def main(arguments: list[str]) -> int:
    """Write, or compare."""
    before = README.read_text(encoding="utf-8")
    after = rewritten(before)
    if "--check" in arguments:
        diff = list(
            difflib.unified_diff(before.splitlines(), after.splitlines(), "README.md", "as it runs", lineterm="")
        )
        sys.stdout.writelines(f"{line}\n" for line in diff)
        return 1 if diff else 0
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
