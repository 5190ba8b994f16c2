"""A small project of rounds whose recipes are real processes that join texts, for tests of the driver and reports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.config import load_config
from align.rounds.driver import run_rounds
from align.rounds.plan import RoundsConfig, plan
from align.rounds.stage import Stage
from tests.processes import TIMEOUT

ROOT = Path(__file__).parents[1]

JOIN = '''
"""Writes `parts` files one after the other, each from all that it reads; files that stand already are kept."""
import json, os, sys, time
from pathlib import Path

if __name__ != "__main__":  # the driver looks at the class; the stage itself goes without, and starts ten times faster
    from pydantic import Field
    from align.config import Recipe
    from align.settings import HubConfig, InputPath, OutputPath

    class JoinRecipe(Recipe):
        sources: tuple[InputPath, ...] = ()
        text: str = ""
        parts: int = Field(1, gt=0)
        seconds: float = 0.0
        output: OutputPath
        hub: HubConfig | None = None

def note(word):
    with open(os.environ["TEST_DIARY"], "a") as diary:
        diary.write(f"{word}\\n")

def run(sources=(), text="", parts=1, seconds=0.0, output=""):
    output = Path(output)
    here = "/".join(output.parts[-2:])
    note(f"began {here}")
    read = [file.read_text() for source in sources for file in sorted(Path(source).rglob("*.txt"))]
    output.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        made = output / f"{part}.txt"
        if not made.exists():
            time.sleep(60 if part >= int(os.environ.get("TEST_STUCK_AT", parts)) else seconds)
            made.with_suffix(".part").write_text("".join(read) + text + str(part))
            made.with_suffix(".part").rename(made)
            note(f"made {here}/{part}")
        print(f"{'join':<14}[{'#' * 20}] 50%  {part}/{parts}", file=sys.stderr)
    print("joined", len(read), "files")
    note(f"ended {here}")

def value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text

if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    settings.update((key, value(text)) for key, _, text in (setting.partition("=") for setting in sys.argv[2:]))
    run(**settings)
'''

FAIL = '''
"""Says why, and fails; or makes nothing."""
import sys
from pathlib import Path
from align.config import Recipe, main
from align.settings import OutputPath

class FailRecipe(Recipe):
    """A stage that fails."""
    code: int = 3
    output: OutputPath

def run(recipe):
    print("the disk of the moon is full")
    sys.exit(recipe.code)

if __name__ == "__main__":
    main(FailRecipe, run)
'''


def wait_for(question: Callable[[], Any], driver: subprocess.Popen[str]) -> None:
    """Wait until a driver has done something; it must not end before.

    The limit is for a driver that hangs: each process that it starts takes seconds on a machine with other work.
    """
    deadline = time.monotonic() + TIMEOUT
    while not question():
        has_ended = driver.poll() is not None
        if has_ended and not question():
            raise AssertionError(f"it ended too early:\n{driver.communicate()[0][-4000:]}")
        assert time.monotonic() < deadline, f"what was waited for did not come within {TIMEOUT:.0f} s"
        time.sleep(0.01)


class Project:
    """A folder with recipes, a start, a rounds.yaml, and a diary of what the stages did."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipes = root / "recipes"
        self.recipes.mkdir()
        (self.recipes / "join.py").write_text(JOIN)
        (self.recipes / "fail.py").write_text(FAIL)
        shutil.copy(ROOT / "recipes" / "rounds.py", self.recipes / "rounds.py")
        self.start = root / "start"
        self.start.mkdir()
        (self.start / "model.txt").write_text("start;")
        self.run_dir = root / "run"
        self.diary_file = root / "diary"
        self.diary_file.touch()
        self.yaml = root / "rounds.yaml"
        self.values: dict[str, Any] = {
            "run_dir": str(self.run_dir),
            "start": str(self.start),
            "rounds": 2,
            "best": "sft",
            "once": [self.stage("data", "{run}/data", ["{start}"])],
            "each_round": [
                self.stage("reward", "{round_dir}/reward", ["{run}/data"]),
                self.stage("sft", "{round_dir}/sft", ["{best}", "{every_round}/reward"]),
            ],
            "after": [self.stage("last", "{run}/last", ["{best}"])],
        }

    def stage(self, name: str, output: str, sources: list[str], **settings: Any) -> dict[str, Any]:
        config = self.root / f"{name}.yaml"
        config.write_text(json.dumps({"text": f"{name};", **settings}))  # JSON is YAML
        return {"name": name, "recipe": "join", "config": str(config), "set": {"sources": sources, "output": output}}

    def write(self) -> Path:
        self.yaml.write_text(json.dumps(self.values, indent=1))
        return self.yaml

    def config(self) -> RoundsConfig:
        return load_config(RoundsConfig, self.write())

    def plan(self) -> list[Stage]:
        return plan(self.config(), self.recipes)

    def run(self) -> list[str]:
        """Start the rounds here; the stages that were run, in order."""
        before = len(self.diary())
        run_rounds(self.config(), self.recipes)
        return [line.split()[1] for line in self.diary()[before:] if line.startswith("began")]

    def begin(self) -> subprocess.Popen[str]:
        """Start the rounds as a process of their own."""
        command = [sys.executable, str(self.recipes / "rounds.py"), str(self.write())]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def diary(self) -> list[str]:
        return self.diary_file.read_text().splitlines()

    def texts(self) -> dict[str, str]:
        files = sorted(self.run_dir.rglob("*.txt"))
        return {str(file.relative_to(self.run_dir)): file.read_text() for file in files}
