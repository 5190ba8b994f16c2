"""Time and memory of a step on one device, and cases that run under a time budget and never end the whole check."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from align.hardware import peak_flops
from tests.gpu.shapes import Sizes

OUT_OF_MEMORY = "out of memory on this device"


class Skipped(Exception):
    """A part that cannot be run here, with the reason: a package or a GPU is missing. Too little time or memory for our
    own code is a failure."""


@dataclass
class Check:
    """One run of the GPU check: where it runs, how large it is, and what it has found."""

    device: torch.device
    sizes: Sizes
    seconds: float  # that the whole check may take
    dry: bool = False
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """That of weights in timed steps; on a CPU float32, so that arms are compared exactly."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def peak(self) -> float | None:
        """FLOP/s of the device in bfloat16, if they are known."""
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.on_gpu else None

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Keep what `work` returns under a name, or why there is nothing."""
        left = self.seconds - (time.monotonic() - self.began)
        began = time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError(f"the {self.seconds:.0f} s of the check are used up")
            found = work()
        except Skipped as reason:
            found = {"skipped": str(reason)}
        except torch.OutOfMemoryError:  # an arm of others notes its own; this is ours
            found = {"failed": OUT_OF_MEMORY}
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        self.clear()
        self.results[name] = found
        word = next((f"{word}: {found[word]}" for word in ("skipped", "failed") if word in found), "done")
        print(f"{name:40} {time.monotonic() - began:6.1f} s  {word.splitlines()[0][:200]}", flush=True)

    def clear(self) -> None:
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()

    def timed(self, step: Callable[[], object], repeats: int | None = None) -> dict[str, Any]:
        """Median seconds of a step after one that warms up, and the most memory that was allocated in it, in GiB."""
        repeats = repeats or self.sizes.repeats
        step()
        self._wait()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            step()
            self._wait()
            taken.append(time.perf_counter() - began)
        memory = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.on_gpu else None
        return {"seconds": statistics.median(taken), "slowest": max(taken), "peak_gib": memory}

    def timed_peer(self, step: Callable[[], object], repeats: int | None = None) -> dict[str, Any]:
        """`timed` of code that is not ours, which may need more memory than the device has."""
        try:
            return self.timed(step, repeats)
        except torch.OutOfMemoryError:
            self.clear()
            return {"skipped": OUT_OF_MEMORY}

    def share_of_peak(self, flops: float, seconds: float) -> float | None:
        """MFU."""
        return None if self.peak is None else flops / seconds / self.peak

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
