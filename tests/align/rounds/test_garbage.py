"""`rounds.py gc`: lists what can go with its size, deletes only when asked, and nothing that a later start needs."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from align.errors import ConfigError
from align.rounds.commands import answered
from align.rounds.decisions import LEDGER
from align.rounds.garbage import Garbage, chosen_kinds, garbage_of, size_text
from align.rounds.ledger import Ledger
from align.rounds.plan import load_stages
from align.rounds.preview import preview
from tests.rounds_project import JOIN, Project

SEALING = (
    "    from align.manifest import write_folder_manifest as seal\n    seal(output, sorted(output.glob('*.txt')))\n"
)


class Run(Project):
    def garbage(self) -> dict[str, Garbage]:
        """Path in the run's folder -> what can go."""
        stages = load_stages(self.config(), self.recipes)
        ledger = Ledger(self.run_dir / LEDGER, in_memory=True)
        return {
            each.path.relative_to(self.run_dir).as_posix(): each for each in garbage_of(self.run_dir, stages, ledger)
        }

    def add(self, place: str, text: str = "12345") -> None:
        file = self.run_dir / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run of one round: `sft` is a sealed checkpoint, `extra` is no longer in the config afterwards."""
    made = Run(tmp_path)
    monkeypatch.setenv("TEST_DIARY", str(made.diary_file))
    (made.recipes / "join.py").write_text(JOIN.replace('    print("joined"', SEALING + '    print("joined"'))
    extra = made.stage("extra", "{run}/extra", ["{run}/data"])
    made.values |= {"rounds": 1, "once": [*made.values["once"], extra]}
    made.run()
    made.values["once"].pop()
    for place in (
        *("round-1/sft/checkpoint-5/model.safetensors", "round-1/sft/checkpoint-5/optimizer.pt"),
        *("round-1/sft/reference/KEY.json", "round-1/sft/reference/steps-0-1.npz", "round-1/sft/trees.arrow"),
        *("data/units/units.json", "data/units/unit-00000.jsonl", "data/.x.jsonl.abc.part", ".trees.part/new/a"),
        *("round-1/sft/metrics.jsonl", "notes.txt"),
    ):
        made.add(place)
    return made


EVERYTHING = {
    "extra": ("removed", "extra"),
    "round-1/sft/checkpoint-5": ("checkpoints", "round-1/sft"),
    "round-1/sft/reference": ("reference", "round-1/sft"),
    "round-1/sft/trees.arrow": ("encoded", "round-1/sft"),
    "data/units": ("units", "data"),
    "data/.x.jsonl.abc.part": ("leftovers", ""),
    ".trees.part": ("leftovers", ""),
}


@pytest.mark.slow
def test_everything_that_can_go_is_listed_and_deleted_only_when_asked(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run.garbage()
    assert {place: (each.kind, each.stage) for place, each in found.items()} == EVERYTHING
    assert found["round-1/sft/checkpoint-5"].size == 10
    assert found["data/.x.jsonl.abc.part"].size == 5
    capsys.readouterr()
    answered(["gc", str(run.write())], run.recipes)
    out = capsys.readouterr().out
    assert f"checkpoints       10 B  {run.run_dir}/round-1/sft/checkpoint-5" in out
    assert "7 files and folders, " in out
    assert "nothing was deleted. Add --delete, or --delete=KIND,KIND" in out
    assert run.garbage() == found
    answered(["gc", str(run.yaml), "--delete=units,leftovers"], run.recipes)
    assert "deleted 3 files and folders, 20 B" in capsys.readouterr().out
    assert {each.kind for each in run.garbage().values()} == {"removed", "checkpoints", "reference", "encoded"}
    answered(["gc", str(run.yaml), "--delete"], run.recipes)
    assert run.garbage() == {}
    answered(["gc", str(run.yaml), "--delete"], run.recipes)
    assert capsys.readouterr().out.endswith("nothing can be deleted\n")
    assert (run.run_dir / "round-1" / "sft" / "metrics.jsonl").exists()
    assert (run.run_dir / "notes.txt").exists(), "a file of the user's own"
    assert {stage.verdict for stage in preview(run.config(), run.recipes).stages} == {"up to date"}
    assert run.run() == []


@pytest.mark.slow
def test_what_a_stage_reads_and_what_an_unfinished_stage_needs_stays(run: Run) -> None:
    run.values["after"][0]["set"]["sources"] = ["{round_dir}/sft/checkpoint-5", "{run}/extra/0.txt"]
    ledger = Ledger(run.run_dir / LEDGER)
    ledger._db.execute("UPDATE stages SET status = 'failed' WHERE label = 'data'")
    ledger.close()
    kept = {"round-1/sft/checkpoint-5", "extra", "data/units", "data/.x.jsonl.abc.part"}
    assert run.garbage().keys() == EVERYTHING.keys() - kept


@pytest.mark.slow
def test_the_checkpoint_from_which_a_training_can_be_extended_stays(run: Run) -> None:
    for step in (25, 100):
        run.add(f"round-1/sft/checkpoint-{step}/optimizer.pt")
    checkpoints = {f"round-1/sft/checkpoint-{step}" for step in (5, 25, 100)}
    assert checkpoints <= run.garbage().keys()
    section = "    class Training(Section):\n        keep_optimizer: bool = False\n\n    class JoinRecipe(Recipe):\n"
    text = (run.recipes / "join.py").read_text().replace("import Recipe\n", "import Recipe, Section\n")
    text = text.replace("    class JoinRecipe(Recipe):\n", f"{section}        training: Training = Training()\n")
    (run.recipes / "train.py").write_text(text)
    sft = run.values["each_round"][1]
    sft |= {"recipe": "train", "set": sft["set"] | {"training.keep_optimizer": True}}
    assert run.garbage().keys() & checkpoints == checkpoints - {"round-1/sft/checkpoint-100"}


@pytest.mark.slow
def test_nothing_is_deleted_while_the_rounds_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.garbage()
    with (run.run_dir / ".lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as left:
            answered(["gc", str(run.write()), "--delete"], run.recipes)
    assert left.value.code == 1
    assert "is in use by another start of the rounds" in capsys.readouterr().err
    assert run.garbage() == before


def test_sizes_and_kinds_are_read_by_people() -> None:
    assert [size_text(size) for size in (0, 999, 1000, 4_110_000_000, 2e12)] == [
        *("0 B", "999 B", "1.0 kB", "4.1 GB", "2.0 TB")
    ]
    assert chosen_kinds("leftovers, units") == ("units", "leftovers")
    assert len(chosen_kinds("")) == 6
    with pytest.raises(ConfigError, match=r"--delete: 'optimizer' is no kind of file. Known: removed, checkpoints"):
        chosen_kinds("optimizer")
