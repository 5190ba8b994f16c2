"""Where models run: on the accelerator if this process sees one, and with which attention kernels there.

Training asks transformers' Trainer for the same place. Judges and generators move their model themselves when they are
made, so no stage can leave one on the CPU of a machine with a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from align.errors import CheckError

M = TypeVar("M", bound=torch.nn.Module)


def device() -> str:
    """The device that models of this process score, sample and train on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_own_gpu() -> None:
    """Make `device()` mean this process's own GPU: process 3 of a machine, by LOCAL_RANK, computes on GPU 3.

    For recipes without a process group, in which nothing else does so. Does nothing without a launcher. If there are
    more processes than GPUs they share them: process 5 computes on GPU 1 of 4.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and torch.cuda.is_available() and (count := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(int(rank) % count)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads of torch in the block, and with as many as before after it. None: as before.

    Sums are rounded differently with another number. A part of a run that left its number behind would change the
    results of the parts after it, and a resumed run, in which it is done already, would end with other bytes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_device(model: M) -> M:
    """`model`, moved in place to `device()` if it is not there yet; its dtype stays as loaded."""
    choose_kernels()
    anywhere: Any = next(model.parameters(), None)
    if anywhere is not None and anywhere.device.type != device():
        model.to(device())
    return model


def require_on_device(model: torch.nn.Module, job: str) -> None:
    """Refuse to score or sample on the CPU of a machine with an accelerator, which would take hundreds of times longer.

    Backends and judges move their model when they are made; another library may have moved it back since.
    Raises CheckError. job: such as `sampling`, for the message.
    """
    anywhere = next(model.parameters(), None)
    if anywhere is not None and anywhere.device.type != device():
        what = f"the model is on {anywhere.device}, but this process has an accelerator ({device()})"
        raise CheckError(job, what, "Move the model back with align.models.devices.on_device")


def choose_kernels() -> None:
    """Exclude cuDNN from scaled_dot_product_attention on CUDA: flash, memory-efficient and plain attention remain.

    cuDNN builds a plan for every new set of sizes and strides, about 30 ms of host time each, and keeps all of them.
    Packed rows and decode steps have new sizes nearly every time, so its cache never hits. PyTorch prefers cuDNN on an
    H100 from the release on that bundles cuDNN 9.15.
    """
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)
