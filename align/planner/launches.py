"""How many processes a launch file starts, on how many nodes, and what its DeepSpeed file says."""

from __future__ import annotations

from dataclasses import dataclass
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

    def nodes(self, machine: MachineConfig) -> int:
        return -(-self.processes // machine.gpus_per_node)


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
    processes = machine.gpus or int(values.get("num_processes") or 1)
    if kind in ("MULTI_GPU", "MULTI_CPU", "NO", None):
        return Launch(processes, name=file.name)
    named = (values.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if kind != "DEEPSPEED" or named is None:
        how = "Name a launch file as those in recipes/launch"
        raise ConfigError(file, f"has the distributed_type {kind} and no DeepSpeed file", how)
    zero = Path(named) if Path(named).is_file() else folder / named
    return Launch(processes, zero_settings(zero), file.name)
