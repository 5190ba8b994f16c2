"""The machines that a plan is for, and the rows, which may not exist yet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from align.config import Section


class MachineConfig(Section):
    """What stages run on. Rates are what is reached and not what a data sheet says; they are of one GPU if not said
    otherwise."""

    device: Literal["gpu", "cpu"] = "gpu"
    """What computes."""
    gpus: int | None = Field(None, gt=0, le=1_000_000)
    """GPUs of all nodes, for stages that a launch file starts; with device: cpu, processes. None: those of the launch
    file, or 1 for a config of one stage."""
    gib: float = Field(80.0, gt=0)
    """Memory of one GPU, in GiB; with device: cpu, of the machine."""
    gpus_per_node: int = Field(8, gt=0)
    """GPUs of one node."""
    host_gib: float = Field(1024.0, gt=0)
    """Memory of one node, in GiB, for weights and optimizer states that are offloaded."""
    tflops: float = Field(400.0, gt=0)
    """Floating point operations in training, in 10^12 a second. 400 is 40% of an H100's peak in bfloat16."""
    memory_gb_per_second: float = Field(3000.0, gt=0)
    """Between a GPU and its memory. Decoding reads all weights for each token of a batch."""
    node_gb_per_second: float = Field(300.0, gt=0)
    """Between the GPUs of a node, in collectives."""
    network_gb_per_second: float = Field(40.0, gt=0)
    """Between nodes, for each GPU: 40 is one adapter of 400 Gbit/s for each GPU, or eight for a node."""
    host_gb_per_second: float = Field(25.0, gt=0)
    """Between a GPU and the memory of its node, for offloaded weights and states."""
    disk_gb_per_second: float = Field(2.0, gt=0)
    """Of all processes together, to the folder of checkpoints."""


class RowsConfig(Section):
    """Rows that are not there yet, by their number and mean lengths. The lengths are drawn from a log-normal
    distribution with a fixed seed; rows that are longer than the limits of a config are left out, as in training."""

    rows: int = Field(20_000, gt=0, le=50_000_000)
    """Rows that a training stage reads, and prompts of a stage that samples."""
    prompt_tokens: int = Field(475, gt=0)
    """Mean tokens of a prompt. The defaults are about those of the preference data of Llama 3 (table 6)."""
    completion_tokens: int = Field(284, gt=0)
    """Mean tokens of a completion."""
    spread: float = Field(0.6, ge=0, le=3)
    """Standard deviation of the logarithms of lengths. 0: all are equal."""
