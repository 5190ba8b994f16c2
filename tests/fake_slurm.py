"""sbatch, squeue, sacct, scancel, srun and scontrol for tests: which one, says the name by which this file is called.

A job is a background process that runs its batch script. What SLURM would know of it is in a folder for each job, under
the folder that FAKE_SLURM names: `script`, `name`, `state`, `code` and `pid`. `sbatch` starts a job at once, or leaves
it pending if that folder has a file `hold`; every call is noted in the file `calls`.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ.get("FAKE_SLURM", "."))


def write(file: Path, text: str) -> None:
    file.with_suffix(".part").write_text(text)
    file.with_suffix(".part").rename(file)


def sbatch(words: list[str]) -> None:
    text = Path(words[-1]).read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    if options.get("partition") == "none":
        sys.exit("sbatch: error: invalid partition specified: none")
    number = str(17 + len(list(ROOT.glob("[0-9]*"))))
    job = ROOT / number
    job.mkdir()
    (job / "script").write_text(text)
    (job / "name").write_text(options["job-name"])
    if (ROOT / "hold").exists():
        write(job / "state", "PENDING")
    else:
        write(job / "state", "RUNNING")
        subprocess.Popen(
            ["node", number, shlex.split(options["output"])[0]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    if (ROOT / "lose-answer").exists():
        sys.exit("sbatch: error: Socket timed out on send/recv operation")
    print(f"{number};cluster")


def node(words: list[str]) -> None:
    """The node: runs the batch script with the variables of SLURM, and notes how it ended."""
    number, log = words
    job = ROOT / number
    variables = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "node[1-2]"}
    with open(log, "ab") as output:
        command = ["bash", str(job / "script")]
        batch = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | variables)
    write(job / "pid", str(batch.pid))
    code = batch.wait()
    write(job / "code", f"{max(code, 0)}:{max(-code, 0)}")
    reason = job / "reason"  # why the cluster ended it
    write(job / "state", reason.read_text() if reason.exists() else "FAILED" if code else "COMPLETED")


def squeue(words: list[str]) -> None:
    if "--name" in words:
        name = words[words.index("--name") + 1]
        print(*(job.name for job in alive() if (job / "name").read_text() == name))
        return
    number = words[words.index("--jobs") + 1]
    if ROOT / number not in alive():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print((ROOT / number / "state").read_text())


def alive() -> list[Path]:
    return [job for job in ROOT.glob("[0-9]*") if (job / "state").read_text() in ("PENDING", "RUNNING")]


def sacct(words: list[str]) -> None:
    if "--name" in words:
        name = words[words.index("--name") + 1]
        print(*(job.name for job in ROOT.glob("[0-9]*") if (job / "name").read_text() == name))
        return
    job = ROOT / words[words.index("--jobs") + 1]
    code = (job / "code").read_text() if (job / "code").exists() else "0:0"
    print(f"{(job / 'state').read_text()}|{code}")


def scancel(words: list[str]) -> None:
    job = ROOT / words[-1]
    state = (job / "state").read_text()
    if state == "PENDING" and "--batch" not in words:
        write(job / "state", "CANCELLED by 1000")
    elif state == "RUNNING" and "--state=PENDING" not in words:
        if "--batch" in words:
            os.kill(process_of(job), signal.SIGTERM)
        else:
            end(job, "CANCELLED by 1000")


def process_of(job: Path) -> int:
    while not (job / "pid").exists():
        time.sleep(0.01)
    return int((job / "pid").read_text())


def end(job: Path, reason: str) -> None:
    """What the cluster does to a job that it preempts or cancels, here without any grace."""
    (job / "reason").write_text(reason)
    batch = process_of(job)
    children = subprocess.run(["pgrep", "-P", str(batch)], capture_output=True, text=True, check=False).stdout.split()
    for process in (batch, *map(int, children)):
        os.kill(process, signal.SIGKILL)


def srun(words: list[str]) -> None:
    """Runs the command in this process, as the first node."""
    command = list(itertools.dropwhile(lambda word: word.startswith("--"), words))
    os.environ["SLURM_NODEID"] = "0"
    os.execvp(command[0], command)


def scontrol(words: list[str]) -> None:
    print("node1\nnode2")


PROGRAMS = {
    "sbatch": sbatch,
    "squeue": squeue,
    "sacct": sacct,
    "scancel": scancel,
    "srun": srun,
    "scontrol": scontrol,
    "node": node,
}


def install(folder: Path, root: Path) -> None:
    """Write the programs into a folder, for a cluster whose jobs are in `root`."""
    source = Path(__file__).read_text()
    root.mkdir()
    folder.mkdir()
    for program in PROGRAMS:
        (folder / program).write_text(f"#!{sys.executable} -SE\n{source}")
        (folder / program).chmod(0o755)


if __name__ == "__main__":
    program = Path(sys.argv[0]).name
    with (ROOT / "calls").open("a") as calls:
        calls.write(f"{program} {shlex.join(sys.argv[1:])}\n")
    PROGRAMS[program](sys.argv[1:])
