"""Where models run: on the accelerator if this process sees one, and with which attention kernels there.

Training asks transformers' Trainer for the same place. Judges and generators move their model themselves when they are
made, so no stage can leave one on the CPU of a machine with a GPU.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


def device() -> str:
    """The device that models of this process score, sample and train on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def on_device(model: M) -> M:
    """`model`, moved in place to `device()` if it is not there yet; its dtype stays as loaded."""
    choose_kernels()
    anywhere: Any = next(model.parameters(), None)
    if anywhere is not None and anywhere.device.type != device():
        model.to(device())
    return model


def choose_kernels() -> None:
    """Exclude cuDNN from scaled_dot_product_attention on CUDA: flash, memory-efficient and plain attention remain.

    cuDNN builds a plan for every new set of sizes and strides, about 30 ms of host time each, and keeps all of them.
    Packed rows and decode steps have new sizes nearly every time, so its cache never hits. PyTorch prefers cuDNN on an
    H100 from the release on that bundles cuDNN 9.15.
    """
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)
