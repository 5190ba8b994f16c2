"""Stages as SLURM jobs, with programs of that name whose jobs are real processes: preempted, cancelled, found again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.errors import ConfigError, StageError
from align.precision import RECORD
from align.rounds.driver import _check_precision, run_rounds
from align.rounds.job_script import batch_script
from align.rounds.launchers import Allocation, JobConfig
from align.rounds.ledger import Ledger
from align.rounds.plan import plan
from align.rounds.slurm import _State
from tests.fake_slurm import end, install
from tests.rounds_project import JOIN, Project, wait_for

ALL = ["run/data", "round-1/reward", "run/last"]


class Cluster(Project):
    """A project whose stage `reward` runs as a SLURM job, and the others as processes here."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.jobs = root / "jobs"
        install(root / "bin", self.jobs)
        here = {"resources": {"local": True}}
        self.values |= {
            "rounds": 1,
            "best": "reward",
            "launcher": {"slurm": {"partition": "gpu", "poll_seconds": 0.05}},
            "once": [self.stage("data", "{run}/data", ["{start}"]) | here],
            "each_round": [self.stage("reward", "{round_dir}/reward", ["{run}/data"], parts=4, seconds=0.3)],
            "after": [self.stage("last", "{run}/last", ["{best}"]) | here],
        }

    @property
    def record(self) -> Path:
        return self.run_dir / "logs" / "round-1-reward.job.json"

    def calls(self, program: str) -> list[str]:
        lines = (self.jobs / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(f"{program} ")]

    def times_made(self) -> set[int]:
        """How often the parts of stages were made."""
        return {*Counter(line for line in self.diary() if line.startswith("made")).values()}

    def begin_until(self, line: str) -> subprocess.Popen[str]:
        driver = self.begin()
        wait_for(lambda: line in self.diary(), driver)
        return driver


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(tmp_path)
    monkeypatch.setenv("TEST_DIARY", str(made.diary_file))
    monkeypatch.setenv("FAKE_SLURM", str(made.jobs))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return made


@pytest.mark.slow
def test_a_stage_as_a_job_makes_what_it_makes_as_a_process(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stage("reward", "", [], parts=4)
    assert cluster.run() == ALL
    out = capsys.readouterr().out
    assert "[####################] 50%  3/4" in out
    assert "SLURM job 17 on node[1-2]" in (cluster.run_dir / "logs" / "round-1-reward.log").read_text()
    assert len(cluster.calls("sbatch")) == 1
    assert not cluster.record.exists()
    texts = cluster.texts()
    del cluster.values["launcher"]
    assert cluster.run() == [], "where a stage runs does not decide its result"
    shutil.rmtree(cluster.run_dir)
    assert cluster.run() == ALL
    assert cluster.texts() == texts
    assert len(cluster.calls("sbatch")) == 1


@pytest.mark.slow
def test_an_interrupted_job_is_submitted_again_and_the_stage_continues(cluster: Cluster) -> None:
    cluster.stage("reward", "", [], parts=3, seconds=1)
    driver = cluster.begin_until("made round-1/reward/0")
    end(cluster.jobs / "17", "PREEMPTED")
    wait_for(lambda: "made round-1/reward/1" in cluster.diary(), driver)
    end(cluster.jobs / "18", "NODE_FAIL")
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, out
    log = (cluster.run_dir / "logs" / "round-1-reward.log").read_text()
    for number, reason in enumerate(("PREEMPTED", "NODE_FAIL")):
        why = f"job {17 + number} ended as {reason}; submitted again ({number + 1} of 10)"
        assert why in out
        assert why in log
    assert len(cluster.calls("sbatch")) == 3
    assert cluster.times_made() == {1}


@pytest.mark.slow
@pytest.mark.parametrize("lost_id", [False, True])
def test_a_job_is_found_again_when_the_driver_was_killed(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], lost_id: bool
) -> None:
    driver = cluster.begin_until("made round-1/reward/0")
    driver.kill()
    driver.wait()
    if lost_id:  # killed between the submission and the note of the id
        cluster.record.write_text(json.dumps(json.loads(cluster.record.read_text()) | {"id": None}))
    assert "run/last" in cluster.run()
    assert "SLURM job 17 of an earlier start is followed" in capsys.readouterr().out
    assert len(cluster.calls("sbatch")) == 1
    assert cluster.diary().count("began round-1/reward") == 1
    assert cluster.times_made() == {1}


@pytest.mark.slow
def test_a_job_that_would_be_made_from_something_else_is_ended_first(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_STUCK_AT", "1")
    driver = cluster.begin_until("made round-1/reward/0")
    driver.kill()
    driver.wait()
    monkeypatch.delenv("TEST_STUCK_AT")
    cluster.stage("reward", "", [], parts=1, text="changed;")
    assert cluster.run()[-2:] == ALL[-2:]
    assert "ending SLURM job 17 of an earlier start (run-round-1-reward-" in capsys.readouterr().out
    assert (cluster.jobs / "17" / "state").read_text() == "FAILED"
    assert cluster.texts()["round-1/reward/0.txt"].endswith("changed;0")
    assert cluster.diary().count("ended round-1/reward") == 1


@pytest.mark.slow
@pytest.mark.parametrize("pending", [False, True])
def test_a_signal_ends_the_job_and_the_same_command_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, pending: bool
) -> None:
    monkeypatch.setenv("TEST_STUCK_AT", "1")
    if pending:
        (cluster.jobs / "hold").touch()
        driver = cluster.begin_until("ended run/data")
        assert driver.stdout is not None
        for line in driver.stdout:
            if "SLURM job 17 is pending" in line:
                break
    else:
        driver = cluster.begin_until("made round-1/reward/0")
    driver.send_signal(signal.SIGTERM)
    out, _ = driver.communicate(timeout=30)
    assert driver.returncode == 128 + signal.SIGTERM, out
    assert "stopped after" in out
    assert (cluster.jobs / "17" / "state").read_text() == ("CANCELLED by 1000" if pending else "FAILED")
    if not pending:
        assert (cluster.jobs / "17" / "code").read_text() == "75:0"
    ledger = Ledger(cluster.run_dir / "ledger.sqlite")
    assert [record.status for record in ledger.stages()] == ["finished", "stopped"]
    ledger.close()
    assert not cluster.record.exists()
    (cluster.jobs / "hold").unlink(missing_ok=True)
    monkeypatch.delenv("TEST_STUCK_AT")
    assert cluster.run() == ALL[1:]
    assert cluster.times_made() == {1}


def failing(cluster: Cluster, code: int, **slurm: Any) -> str:
    """The message of a run whose stage ends with this code."""
    config = cluster.root / "bad.yaml"
    config.write_text(f"code: {code}\n")
    cluster.values["each_round"].append(
        {"name": "bad", "recipe": "fail", "config": str(config), "set": {"output": "{round_dir}/bad"}}
    )
    cluster.values["each_round"][0]["resources"] = {"local": True}
    cluster.stage("reward", "", [])
    cluster.values["launcher"]["slurm"] |= slurm
    with pytest.raises(StageError) as caught:
        cluster.run()
    return str(caught.value)


@pytest.mark.slow
def test_a_failed_job_is_reported_with_its_last_lines(cluster: Cluster) -> None:
    message = failing(cluster, 3)
    assert f"stage round-1/bad: python {cluster.recipes}/fail.py" in message
    assert "as SLURM job 17 ended with code 3 after" in message
    assert "    | the disk of the moon is full" in message
    assert len(cluster.calls("sbatch")) == 1


@pytest.mark.slow
def test_a_job_is_not_submitted_again_without_end(cluster: Cluster) -> None:
    """The code is that of a stage that was asked to save and end."""
    assert "was asked to save and end, after it was submitted 2 times, after" in failing(cluster, 143, max_restarts=1)
    assert len(cluster.calls("sbatch")) == 2


@pytest.mark.slow
def test_a_job_that_sbatch_refuses_is_a_failure_of_the_stage(cluster: Cluster) -> None:
    message = failing(cluster, 0, partition="none")
    assert "could not be submitted (sbatch: error: invalid partition specified: none)" in message


@pytest.mark.slow
def test_a_job_whose_id_sbatch_did_not_give_is_found_by_its_name(cluster: Cluster) -> None:
    (cluster.jobs / "lose-answer").touch()
    assert "as SLURM job 17 ended with code 3" in failing(cluster, 3)
    assert len(cluster.calls("sbatch")) == 1


@pytest.mark.slow
def test_a_job_that_says_why_it_failed_is_submitted_again_as_often_as_that_cause_may_come(cluster: Cluster) -> None:
    """The file of causes is emptied before each job: the second one, which writes nothing, is an error."""
    fails = """
    began = open(os.environ["TEST_DIARY"]).read().split().count("round-1/reward")
    if here == "round-1/reward" and began < 3:
        if began == 1:
            open(os.environ["ALIGN_FAILURES"], "a").write('{"cause": "network", "text": "the Hub is away"}\\n')
        sys.exit(1)
    read ="""
    (cluster.recipes / "join.py").write_text(JOIN.replace("    read =", fails.lstrip("\n")))
    cluster.stage("reward", "", [])
    cluster.values["restarts"] = {"first_wait_seconds": 0}
    with pytest.raises(StageError, match=r"stage round-1/reward: .* as SLURM job 18 ended with code 1"):
        cluster.run()
    ledger = Ledger(cluster.run_dir / "ledger.sqlite")
    assert [(each.cause, bool(each.restart)) for each in ledger.failures().values()] == [
        ("network", True),
        ("error", False),
    ]
    ledger.close()


@pytest.mark.parametrize("name, cause", [("OUT_OF_MEMORY", "killed"), ("CANCELLED", "error"), ("FAILED", None)])
def test_the_state_of_a_job_says_why_it_ended_where_its_code_does_not(name: str, cause: str | None) -> None:
    assert _State(name, 0, 125).cause == cause


def test_the_machine_of_the_driver_does_not_decide_the_precision_of_jobs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALIGN_PRECISION", raising=False)
    opened = JOIN.replace('        text: str = ""\n', '        text: str = ""\n        precision: str = "auto"\n')
    (cluster.recipes / "join.py").write_text(opened)
    config = cluster.config()
    with pytest.raises(ConfigError, match=r"precision: is auto with launcher.slurm, .* Set precision to bf16 or fp32"):
        run_rounds(config, cluster.recipes)
    assert not cluster.run_dir.exists()
    stages = plan(config, cluster.recipes)
    local = [replace(stage, allocation=None) for stage in stages]
    _check_precision(config, local)
    _check_precision(config.model_copy(update={"precision": "bf16"}), stages)
    monkeypatch.setenv("ALIGN_PRECISION", "bf16")
    _check_precision(config, stages)
    monkeypatch.delenv("ALIGN_PRECISION")
    cluster.run_dir.mkdir()
    (cluster.run_dir / RECORD).write_text('{"precision": "bf16", "reason": "an H100"}')
    _check_precision(config, stages)


def script_of(cluster: Cluster, asked: Allocation, command: tuple[str, ...], stop_seconds: float = 240.5) -> str:
    launch = Path("nodes.yaml")
    stage = replace(cluster.plan()[1], allocation=asked, command=command, launch=launch)
    return batch_script(stage, "run-dpo", cluster.root / "with space" / "50%.log", ("module load cuda",), stop_seconds)


def test_the_script_asks_for_what_the_settings_say(cluster: Cluster) -> None:
    job = JobConfig(
        partition="gpu",
        account="me",
        time="1-12",
        gpus_per_node=8,
        cpus_per_node=64,
        memory="0",
        options=("--qos=high",),
    )
    script = script_of(cluster, Allocation(1, job), ("python", "dpo.py", "a b"))
    lines = script.splitlines()
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=run-dpo",
        f"#SBATCH --chdir={Path.cwd()}",
        f"#SBATCH --output='{cluster.root}/with space/50%%.log'",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=me",
        "#SBATCH --time=1-12",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=64",
        "#SBATCH --mem=0",
        "#SBATCH --qos=high",
        "#SBATCH --no-requeue",
        "#SBATCH --signal=B:USR1@241",
    ]
    step = "srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=64"
    assert f"{step} python dpo.py 'a b' &" in lines
    assert "module load cuda" in lines
    failures = f"ALIGN_FAILURES='{cluster.root}/with space/50%.failures.jsonl'"
    assert f"export PYTHONUNBUFFERED=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=241 {failures}" in lines
    directives = [place for place, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [place for place, line in enumerate(lines) if line and not line.startswith("#")]
    assert directives[-1] < commands[0], "sbatch reads no option after the first command"


@pytest.mark.slow
def test_each_node_launches_with_its_rank_and_the_address_of_the_first(cluster: Cluster) -> None:
    command = ("printf", "%s\\n", "--config_file", "nodes.yaml", "dpo.py", "a b")
    script = script_of(cluster, Allocation(2, JobConfig()), command).replace("module load cuda\n", "")
    variables = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "node[1-2]"}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=os.environ | variables, check=True
    )
    expected = "--config_file nodes.yaml --machine_rank 0 --main_process_ip node1 --main_process_port 20017 dpo.py a_b"
    assert done.stdout.splitlines()[1:] == [word.replace("_b", " b") for word in expected.split(" ")], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_before_its_time_limit_a_stage_saves_and_the_code_says_so(cluster: Cluster, number: signal.Signals) -> None:
    saves = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(1)))"
    stage = (sys.executable, "-c", f"{saves}; print('ready', flush=True); time.sleep(30)")
    script = script_of(cluster, Allocation(1, JobConfig()), stage).replace("module load cuda\n", "")
    variables = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node1"}
    job = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | variables)
    assert job.stdout is not None
    assert [next(job.stdout), next(job.stdout)] == ["SLURM job 17 on node1\n", "ready\n"]
    job.send_signal(number)
    out, _ = job.communicate(timeout=20)
    assert job.returncode == 75
    assert out.splitlines() == ["asked to save and end", "saved"]


@pytest.mark.parametrize(
    "slurm, message",
    [
        ({"options": ["--output=here"]}, "--output is set by the launcher; delete it here"),
        ({"options": ["-p gpu"]}, "'-p gpu' is no option of sbatch in the form --name=value"),
        ({"time": "two days"}, "launcher.slurm.time"),
        ({"gpus_per_node": 4}, "starts 16 processes on 2 nodes with 4 GPUs each. Ask for a GPU for each process"),
    ],
)
def test_mistakes_are_found_before_anything_starts(cluster: Cluster, slurm: dict[str, Any], message: str) -> None:
    launch = cluster.root / "nodes.yaml"
    launch.write_text("distributed_type: DEEPSPEED\nnum_machines: 2\nnum_processes: 16\n")
    cluster.values["each_round"][0]["launch"] = str(launch)
    cluster.values["launcher"]["slurm"] |= slurm
    with pytest.raises(ConfigError) as caught:
        cluster.plan()
    assert message in str(caught.value)


def test_a_stage_replaces_what_the_launcher_asks_for(cluster: Cluster) -> None:
    cluster.values["launcher"]["slurm"] |= {"time": "12:00:00", "gpus_per_node": 8}
    cluster.values["each_round"][0]["resources"] = {"gpus_per_node": 0, "partition": None, "cpus_per_node": 4}
    data, reward, _ = cluster.plan()
    assert data.allocation is None
    assert reward.allocation == Allocation(1, JobConfig(time="12:00:00", gpus_per_node=0, cpus_per_node=4))


def test_a_machine_without_slurm_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cluster.recipes))
    with pytest.raises(ConfigError, match=r"launcher.slurm: sbatch is not installed on this machine. Start the rounds"):
        cluster.run()
    assert not cluster.run_dir.exists()


def test_a_damaged_record_of_a_job_is_an_error(cluster: Cluster) -> None:
    cluster.record.parent.mkdir(parents=True)
    cluster.record.write_text('{"name": 3}')
    cluster.values["once"] = []
    cluster.values["each_round"][0]["set"]["sources"] = ["{start}"]
    with pytest.raises(StageError, match=r"round-1-reward.job.json: is damaged; expected the record of a SLURM job"):
        cluster.run()
