"""Where stages run: as processes on the machine of the driver, or as SLURM jobs. The settings, and what a job asks for.

`processes.py` runs a stage on this machine, `slurm.py` as a job.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from align.config import Section
from align.errors import ConfigError
from align.strict_yaml import read_yaml

_SET_HERE = ("job-name", "output", "error", "open-mode", "chdir", "signal", "requeue", "no-requeue", "nodes", "ntasks")
"""Options of sbatch that the launcher sets itself, because following a job and finding it again depend on them."""


class JobConfig(Section):
    """What a SLURM job asks for. A setting that is None is left to the cluster's defaults."""

    partition: str | None = None
    """Which queue."""
    account: str | None = None
    """Who is charged."""
    time: str | None = Field(None, pattern=r"^(\d+-)?\d+(:\d+){0,2}$")
    """The longest time that one job may take, as SLURM writes it, such as "24:00:00" or 2-12 (days-hours). A stage that
    takes longer saves, and continues in a further job."""
    gpus_per_node: int | None = Field(None, ge=0)
    """GPUs on each node. The number of nodes is `num_machines` of the stage's launch file, or 1."""
    cpus_per_node: int | None = Field(None, gt=0)
    """CPU cores on each node."""
    memory: str | None = Field(None, pattern=r"^\d+[KMGT]?$")
    """Memory of each node, such as 512G; 0 for all that it has."""
    options: tuple[str, ...] = ()
    """Further options of sbatch, such as --qos=high or --constraint=h200."""

    @field_validator("options")
    @classmethod
    def _options_leave_the_job_findable(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            name = re.fullmatch(r"--([a-z][a-z-]*)(=[^\n]*)?", option)
            if name is None:
                raise ValueError(f"{option!r} is no option of sbatch in the form --name=value")
            if name[1] in _SET_HERE:
                raise ValueError(f"--{name[1]} is set by the launcher; delete it here")
        return options


class SlurmConfig(JobConfig):
    """Stages as SLURM jobs. What a job asks for holds for every stage; `resources` of a stage replaces some of it."""

    setup: tuple[str, ...] = ()
    """Shell lines that each job runs first, such as `module load cuda`."""
    max_restarts: int = Field(10, ge=0)
    """How often a stage whose job was preempted, lost its node or reached its time limit is submitted again."""
    poll_seconds: float = Field(10, gt=0)
    """Time between two questions to SLURM how a job is doing."""


class LauncherConfig(Section):
    """Where stages run, and how many at a time."""

    parallel: int | None = Field(None, gt=0)
    """The most stages that run at one time: stages of one round of which none reads what another one makes. What they
    make does not depend on it. None: one; with SLURM all that can run, since the queue of the cluster decides."""
    gpus: int | None = Field(None, ge=0)
    """GPUs of the driver's machine, for stages that run there at the same time: each gets some for itself, as many as
    its resources.gpus_per_node says, or all, and waits until they are free. None: GPUs are not divided."""
    slurm: SlurmConfig | None = None
    """As SLURM jobs. The driver itself runs where sbatch does, such as on a login node, and shares its folders with the
    nodes. None: as processes on the machine of the driver."""

    @property
    def most_stages(self) -> float:
        """`parallel`, with its default."""
        return self.parallel or (1 if self.slurm is None else math.inf)


class ResourcesConfig(JobConfig):
    """What one stage needs, where it differs from `launcher`: what its SLURM job asks for. On the machine of the
    driver only gpus_per_node counts, together with launcher.gpus."""

    local: bool = False
    """Run this stage on the machine of the driver also with SLURM, such as a small one, or one that serves a page."""
    alone: bool = False
    """On the machine of the driver, run no other stage there at the same time, such as next to one that needs all of
    the memory."""


@dataclass(frozen=True)
class Allocation:
    """What the job of a stage asks for, complete."""

    nodes: int
    job: JobConfig


@dataclass(frozen=True)
class LocalNeeds:
    """What a stage that runs on the machine of the driver needs of it."""

    gpus: int | None = None
    """GPUs that it gets for itself; None where GPUs are not divided."""
    alone: bool = False


def allocation(launcher: LauncherConfig, own: ResourcesConfig | None, launch: Path | None) -> Allocation | None:
    """What a stage asks SLURM for; None for a process on the machine of the driver.

    own: the stage's settings. launch: its accelerate config.
    Raises ConfigError if the launch file starts more processes on a node than the node has GPUs.
    """
    if launcher.slurm is None or (own is not None and own.local):
        return None
    given = (
        {} if own is None else {name: getattr(own, name) for name in own.model_fields_set & {*JobConfig.model_fields}}
    )
    job = JobConfig(**{name: given.get(name, getattr(launcher.slurm, name)) for name in JobConfig.model_fields})
    return Allocation(_nodes_of(launch, job.gpus_per_node), job)


def local_needs(launcher: LauncherConfig, own: ResourcesConfig | None, launch: Path | None) -> LocalNeeds:
    """What a stage needs of the machine of the driver. Arguments and errors as for `allocation`."""
    alone = own is not None and own.alone
    if launcher.gpus is None:
        return LocalNeeds(None, alone)
    asked = launcher.gpus if own is None or own.gpus_per_node is None else own.gpus_per_node
    if asked > launcher.gpus:
        what = f"is {asked}, and launcher.gpus, the GPUs of this machine, is {launcher.gpus}"
        raise ConfigError("resources.gpus_per_node", what, "Ask for fewer GPUs")
    _nodes_of(launch, asked)
    return LocalNeeds(asked, alone)


def _nodes_of(launch: Path | None, gpus_per_node: int | None) -> int:
    """The number of nodes in a launch file. Raises ConfigError if a node has fewer GPUs than processes."""
    values = {} if launch is None else read_yaml(launch)[0]
    nodes = int(values.get("num_machines") or 1)
    processes = int(values.get("num_processes") or nodes)
    on_cpu = values.get("use_cpu") or values.get("distributed_type") in (None, "NO", "MULTI_CPU")
    if not on_cpu and gpus_per_node is not None and processes > nodes * gpus_per_node:
        what = f"{launch} starts {processes} processes on {nodes} nodes with {gpus_per_node} GPUs each"
        how = "Ask for a GPU for each process, or name another launch file"
        raise ConfigError("resources.gpus_per_node", what, how)
    return nodes
