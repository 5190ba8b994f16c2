"""From a JSONL of preference rows to token ids: rows a second, and the memory of it as the file grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import ours
import shapes


def rate(folder: Path, *, rows: int, rounds: int) -> dict[str, Any]:
    """Rows a second, ours against TRL's `_prepare_dataset`, in one process each, on pairs that people and models wrote.

    Both begin at the file. Reading it is a small part of either.
    """
    import peers

    start = shapes.checkpoint("3M", folder)
    protocol = ours.protocol_of(start)
    theirs = peers.dpo_preparer(peers.policy(start), protocol.tokenizer, folder / "trl")
    paths = []
    for number in range(rounds):
        path = folder / f"pairs-{rows}-{number}.jsonl"
        ours.write_jsonl(path, shapes.real_pairs(rows))
        paths.append(path)
    warm = folder / "pairs-warm.jsonl"
    ours.write_jsonl(warm, shapes.real_pairs(32))
    prepared = {"trl": theirs(warm), "ours": ours.prepare(warm, protocol)}
    assert prepared["trl"] == 32
    counts: dict[str, set[int]] = {"trl": set(), "ours": set()}
    times = measure.alternate(
        {"trl": lambda n: theirs(paths[n]), "ours": lambda n: ours.prepare(paths[n], protocol)},
        rounds,
        after=lambda name, batch, count: counts[name].add(count),
    )
    for path in [*paths, warm]:
        path.unlink()
    return {
        "rows": rows,
        "rows_kept": {name: sorted(found) for name, found in counts.items()},
        "arms": {
            name: {
                "rows_per_second": measure.summary([rows / t.wall for t in taken]),
                "rows_per_processor_second": measure.summary([rows / t.process for t in taken]),
            }
            for name, taken in times.items()
        },
        "ratios": {"trl / ours": measure.ratio(times["trl"], times["ours"])},
    }


def memory(folder: Path, *, rows: int) -> dict[str, Any]:
    """Peak memory of preparing that many rows (ours), above what was used before. For a fresh process."""
    protocol = ours.protocol_of(shapes.SMOLLM2)
    path = folder / f"rows-{rows}.jsonl"
    ours.write_jsonl(path, shapes.real_pairs(rows))
    warm = folder / f"rows-{rows}-warm.jsonl"
    ours.write_jsonl(warm, shapes.real_pairs(64))
    ours.prepare(warm, protocol)
    before = measure.resident_bytes()
    measure.forget_peak()
    taken = measure.taken_by(lambda: ours.prepare(path, protocol))
    peak = measure.peak_bytes()
    size = path.stat().st_size
    path.unlink()
    warm.unlink()
    return {
        "rows": rows,
        "file_bytes": size,
        "before_bytes": before,
        "peak_bytes": peak,
        "above_bytes": peak - before,
        "rows_per_second": rows / taken.wall,
    }
