"""Does `accelerate launch --max_restarts` bring a training back after one of its processes was killed?

    python tests/torture/restarts.py

A DPO run under ZeRO-3 on two processes, of which one gets SIGKILL after the first checkpoint, is compared with a run
that is left alone: the finished models must have the same bytes. Starts real interpreters, so it takes a minute. Prints
a line of JSON, and exits with 1 if it fails.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from tests import conftest  # noqa: E402
from tests.processes import ZERO3, Started  # noqa: E402
from tests.torture.stops import write_pairs  # noqa: E402

SETTINGS = "batch_size: 8, epochs: 3, save_steps: 3, learning_rate: 1.0e-4, precision: fp32"


def start(config: Path, output: Path, *launcher: str) -> Started:
    """The training, with further words for the launcher."""
    words = [*ZERO3, *launcher, "recipes/dpo.py", str(config), f"training.output_dir={output}"]
    return Started(words, real=True, printed=output.with_suffix(".log"))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="align-restarts-") as name:
        folder = Path(name)
        model = conftest._saved(conftest.chatml_tokenizer.__wrapped__(), folder / "tiny")
        write_pairs(folder / "pairs.jsonl", 24)
        config = folder / "dpo.yaml"
        config.write_text(
            f"model: {{path: {model}}}\ndata: {{path: {folder / 'pairs.jsonl'}}}\n"
            f"training: {{output_dir: here, {SETTINGS}}}\n"
        )
        alone, killed = folder / "alone", folder / "killed"
        codes = [start(config, alone).wait()]
        started = start(config, killed, "--max_restarts", "2")
        started.wait_for((killed / "checkpoint-3" / "MANIFEST.json").exists)
        workers = psutil.Process(started.pid).children(recursive=True)
        max(workers, key=lambda each: each.memory_info().rss).kill()
        codes.append(started.wait())
        same = codes == [0, 0] and len({(each / "model.safetensors").read_bytes() for each in (alone, killed)}) == 1
        result = {
            "test": "accelerate launch --max_restarts",
            "codes": codes,
            "failures": [] if same else ["other bytes"],
        }
    print(json.dumps(result))
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
