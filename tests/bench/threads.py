"""What spinning OpenMP threads cost when other processes are busy: decoding and training with each setting, in turn.

    python tests/bench/threads.py [OUTPUT.json]

libgomp's threads spin while they wait for each other. Where another process holds a core, the thread that is waited for
does not run, and the one that spins uses up the core that it could run on. A small GOMP_SPINCOUNT lets them sleep soon.
Each setting runs in a process of its own, since OpenMP reads it once, when it loads.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / ".assets" / "SmolLM2-135M-Instruct"
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = (0, 1)
ROWS = (64,)
TOKENS = (512,)
REPEATS = 2
STEPS = 4
"""Tokens that a row decodes in one measurement."""


def measure(dtype: str) -> dict[str, float]:
    """Tokens per second of greedy decoding by rows, and seconds of a forward and backward pass by tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    found: dict[str, float] = {}
    for rows in ROWS:
        prompt = torch.randint(1000, 40000, (rows, 16), generator=torch.Generator().manual_seed(0))
        seconds = _median(lambda p=prompt: _decode(model, p, STEPS))
        found[f"decode {rows} rows, tokens/s"] = round(rows * STEPS / seconds, 1)
    for tokens in TOKENS:
        row = torch.randint(1000, 40000, (1, tokens), generator=torch.Generator().manual_seed(0))
        found[f"train {tokens} tokens, s"] = round(_median(lambda r=row: _train(model, r)), 2)
    return found


def _decode(model: object, prompt: object, steps: int) -> None:
    import torch

    with torch.inference_mode():
        past, ids = None, prompt
        for _ in range(steps):
            out = model(input_ids=ids, past_key_values=past, use_cache=True)  # type: ignore[operator]
            past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)


def _train(model: object, row: object) -> None:
    model(input_ids=row, labels=row).loss.backward()  # type: ignore[operator]
    model.zero_grad()  # type: ignore[attr-defined]


def _median(step: Callable[[], None]) -> float:
    step()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _spin() -> None:
    while True:
        pass


def main(output: Path | None) -> None:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for busy in BUSY:
        spinners = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(busy)]
        for spinner in spinners:
            spinner.start()
        for name, setting in SETTINGS.items():
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | setting
            command = [sys.executable, __file__, "--measure", "float32"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            table.setdefault(f"{busy} busy", {})[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"{busy} busy  {name:<26}{table[f'{busy} busy'][name]}", flush=True)
        for spinner in spinners:
            spinner.terminate()
    if output is not None:
        output.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
