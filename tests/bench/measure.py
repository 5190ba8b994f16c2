"""Time and memory of this process: arms that alternate A B B A on the same batches, ratios of single steps, VmHWM."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Taken(NamedTuple):
    """Seconds of one step: on the wall, and of all threads of the process."""

    wall: float
    process: float


def taken_by(step: Callable[[], object]) -> Taken:
    wall, process = time.perf_counter(), time.process_time()
    step()
    return Taken(time.perf_counter() - wall, time.process_time() - process)


def alternate(
    arms: Mapping[str, Callable[[int], object]],
    batches: int,
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[str, int, Any], object] = lambda arm, batch, result: None,
) -> dict[str, list[Taken]]:
    """Each arm once on each batch: in their order on one, in reverse on the next, so that drift hits both alike.

    before: runs ahead of each step, outside its time. after: is given the arm, the batch and what the step returned.
    """
    times: dict[str, list[Taken]] = {name: [] for name in arms}
    for batch in range(batches):
        for name in list(arms) if batch % 2 == 0 else list(arms)[::-1]:
            before()
            gc.collect()
            results: list[Any] = []
            times[name].append(taken_by(lambda n=name, b=batch, r=results: r.append(arms[n](b))))
            after(name, batch, results.pop())
    return times


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Median, the quartiles, and how many. With fewer than two values the quartiles are the value."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "low": low, "high": high, "steps": len(values)}


def ratio(slower: Sequence[Taken], faster: Sequence[Taken]) -> dict[str, Any]:
    """How many times longer the first takes: median and quartiles over steps, by wall and by process time."""
    pairs = list(zip(slower, faster, strict=True))
    return {
        **summary([a.wall / b.wall for a, b in pairs]),
        "process_time": summary([a.process / b.process for a, b in pairs]),
    }


def plus(first: Sequence[Taken], second: Sequence[Taken]) -> list[Taken]:
    """The times of two steps taken one after the other."""
    return [Taken(a.wall + b.wall, a.process + b.process) for a, b in zip(first, second, strict=True)]


def resident_bytes() -> int:
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that this process has had resident (VmHWM), since it began or since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Start VmHWM over from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}: memory is measured on Linux only")
