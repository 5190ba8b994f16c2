"""The batch script of a stage that runs as a SLURM job, from the template `job.sh.jinja`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from align.failures import FAILURES
from align.rounds.launchers import Allocation
from align.rounds.processes import failures_file
from align.rounds.stage import Stage

ASKED_CODE = 75
"""Exit code of a job whose stage was asked to save and end, by its time limit or by preemption (EX_TEMPFAIL)."""


def batch_script(stage: Stage, name: str, log: Path, setup: Sequence[str], stop_seconds: float) -> str:
    """The batch script of a stage's job. Over several nodes each runs `accelerate launch`, with its own rank."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    asked = stage.allocation
    assert asked is not None
    environment = Environment(  # nosec B701  # a shell script, whose values are quoted in the template
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("job.sh.jinja").render(
        name=name,
        folder=shlex.quote(str(Path.cwd())),
        log=shlex.quote(str(log.absolute()).replace("%", "%%")),  # sbatch replaces %j and others
        nodes=asked.nodes,
        options=_options(asked),
        setup=setup,
        stop_seconds=math.ceil(stop_seconds),
        failures=f"{FAILURES}={shlex.quote(str(failures_file(log.absolute())))}",
        asked_code=ASKED_CODE,
        srun=_srun(stage, asked),
    )


def _options(asked: Allocation) -> list[str]:
    job = asked.job
    values: Mapping[str, object] = {
        "partition": job.partition,
        "account": job.account,
        "time": job.time,
        "gpus-per-node": job.gpus_per_node or None,
        "cpus-per-task": job.cpus_per_node,  # a node has one task
        "mem": job.memory,
    }
    return [*(f"--{name}={value}" for name, value in values.items() if value is not None), *job.options]


def _srun(stage: Stage, asked: Allocation) -> str:
    """The line of the script that runs the stage.

    On two nodes `python -m accelerate.commands.launch --config_file F dpo.py C.yaml` becomes, on each of them,
        python -m accelerate.commands.launch --config_file F --machine_rank "$SLURM_NODEID" ... dpo.py C.yaml
    """
    step = ["srun", f"--nodes={asked.nodes}", f"--ntasks={asked.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    if asked.job.cpus_per_node is not None:  # srun does not take it from the job
        step.append(f"--cpus-per-task={asked.job.cpus_per_node}")
    if asked.nodes == 1:
        return shlex.join([*step, *stage.command])
    recipe = stage.command.index(str(stage.launch)) + 1
    node = '--machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_HOST" --main_process_port "$MAIN_PORT"'
    command = f"exec {shlex.join(stage.command[:recipe])} {node} {shlex.join(stage.command[recipe:])}"
    return shlex.join([*step, "bash", "-c", command])
