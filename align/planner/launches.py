"""How many processes a launch file starts, on how many nodes, and what its DeepSpeed file says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from align.errors import ConfigError
from align.planner.settings import MachineConfig
from align.strict_yaml import read_yaml
from align.trainers.deepspeed_file import ZeroSettings, zero_settings


@dataclass(frozen=True)
class Launch:
    """The processes of a stage."""

    processes: int
    zero: ZeroSettings | None = None
    """None if the model is whole in each process."""
    name: str = "one process"
    nodes: int | None = None
    """That the launch file starts them on. None: as many as their GPUs need."""
    counts_gpus: bool = False
    """Whether `processes` was given as a number of GPUs, which larger groups of GPUs share."""

    def on(self, machine: MachineConfig, gpus: int, label: str) -> Launch:
        """The processes of the stage `label`, if each of them computes on `gpus` GPUs of one node.

        Example, models that are spread over 8 GPUs: 8 processes of a launch file for 8 nodes stay 8, on 64 GPUs. 64
        GPUs that the machine was said to have make 8 processes too.
        Raises ConfigError if a node has fewer GPUs than its processes need.
        """
        if machine.device == "cpu":
            return self
        processes = max(1, self.processes // gpus) if self.counts_gpus else self.processes
        on_node = 1 if self.nodes is None else -(-processes // self.nodes)
        there = min(machine.gpus_per_node, self.processes) if self.counts_gpus else machine.gpus_per_node
        if on_node * gpus > there:
            what = f"starts {on_node} process{'es' * (on_node > 1)} with {gpus} GPUs each on a node, which has {there}"
            how = "Use a launch file with fewer processes on each node, spread a model over fewer GPUs, or plan for"
            raise ConfigError(f"{label} ({self.name})", what, f"{how} larger nodes (gpus, gpus_per_node)")
        return replace(self, processes=processes, counts_gpus=False)


def launch_of(file: Path | None, machine: MachineConfig, folder: Path = Path()) -> Launch:
    """The processes of a stage that `file` launches; of one plain process without a file.

    machine: its `gpus` replaces the number of processes in the file. folder: from which the file names its DeepSpeed
        file.
    Raises ConfigError for a file that cannot be read, or that starts training in a way that is not planned.
    """
    if file is None:
        return Launch(1)
    values = read_yaml(file)[0]
    kind = values.get("distributed_type")
    nodes = None if machine.gpus else int(values.get("num_machines") or 1)
    processes = machine.gpus or int(values.get("num_processes") or 1)
    started = Launch(processes, name=file.name, nodes=nodes, counts_gpus=machine.gpus is not None)
    if kind in ("MULTI_GPU", "MULTI_CPU", "NO", None):
        return started
    named = (values.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if kind != "DEEPSPEED" or named is None:
        how = "Name a launch file as those in recipes/launch"
        raise ConfigError(file, f"has the distributed_type {kind} and no DeepSpeed file", how)
    zero = Path(named) if Path(named).is_file() else folder / named
    return replace(started, zero=zero_settings(zero))
