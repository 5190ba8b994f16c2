"""Do runs that are asked to stop, that find no disk space or that are killed leave what the next start can use?

    python tests/torture/stops.py --seed 1 --stops 20 --sizes 20 --seconds 600

SIGTERM at random moments of every part of a DPO run; a disk that is full at many sizes; the effective training time of
a run that is killed again and again. Short forms are in tests/align/trainers/test_stops.py.
"""

from __future__ import annotations

from pathlib import Path

from tests.processes import Started

SLOWED = "tests/torture/slowed.py"


def stop_in(part: str, arguments: list[str], folder: Path, seconds: float, **environment: str) -> Started:
    """Start a training by recipes/dpo.py, and send it SIGTERM when the part, which is delayed, has begun.

    folder: for a file that says so. Returns the process, which has ended.
    """
    reached = folder / f"reached-{part.replace(' ', '-')}"
    reached.unlink(missing_ok=True)
    words = [SLOWED if word == "recipes/dpo.py" else word for word in arguments]
    slowed = {"SLOWED": part, "SLOWED_SECONDS": str(seconds), "SLOWED_REACHED": str(reached)}
    started = Started(words, **slowed, **environment)
    started.wait_for(reached.exists)
    started.terminate()
    started.wait(seconds + 60)
    return started


def debris(output: Path) -> list[str]:
    """Names of temporary files in a folder, and of checkpoints that are not sealed."""
    found = [file.name for file in output.rglob("*") if file.name.endswith((".part", ".tmp"))]
    return found + [folder.name for folder in output.glob("checkpoint-*") if not (folder / "MANIFEST.json").exists()]
