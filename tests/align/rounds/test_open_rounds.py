"""Rounds whose data arrives while they run, and the choice of the best model by evaluations, on small recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.config import load_config
from align.errors import ConfigError, StageError
from align.rounds.best import BestConfig, choose
from align.rounds.decisions import LEDGER
from align.rounds.ledger import Ledger
from align.rounds.plan import RoundsConfig, load_stages, plan
from tests.rounds_project import JOIN, Project

SCORE = """
import json, os, sys
from pathlib import Path

if __name__ != "__main__":  # the driver looks at the class; the stage itself goes without, and starts faster
    from align.config import Recipe
    from align.settings import InputPath, OutputPath

    class ScoreRecipe(Recipe):
        model: InputPath
        facts: dict[str, str] | None = None
        tools: dict[str, str] | None = None
        output: OutputPath
else:
    settings = dict(setting.split("=", 1) for setting in sys.argv[2:])
    model, output = Path(settings["model"]), Path(settings["output"])
    known = json.loads(Path(os.environ["TEST_SCORES"]).read_text())
    output.mkdir(parents=True)
    for name, value in known[model.parent.name].items():
        record = {"name": name, "scores": {"right": {"value": value, "low": 0, "high": 1, "n": 9}}}
        (output / f"{name}.json").write_text(json.dumps(record))
"""

PATIENT = JOIN.replace(
    "    read =",
    """    while here == "round-1/eval" and "began round-2/sft" not in open(os.environ["TEST_DIARY"]).read():
        time.sleep(0.01)
    read =""",
)
"""The first evaluation ends only when the second round trains."""

BEST = {"stage": "sft", "evaluation": "dev", "score": {"facts.right": 1.0}}


class OpenProject(Project):
    """Three rounds that read a file of their own each, and are evaluated with scores that the test sets."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (self.recipes / "score.py").write_text(SCORE)
        self.scores = root / "scores.json"
        (root / "score.yaml").write_text('{"facts": {}, "tools": {}}')
        dev = {"name": "dev", "recipe": "score", "config": str(root / "score.yaml")}
        self.values |= {
            "rounds": 3,
            "best": dict(BEST),
            "once": [],
            "each_round": [
                self.stage("probe", "{round_dir}/probe", [str(root / "questions-{round}.txt")]),
                self.stage("sft", "{round_dir}/sft", ["{best}", "{round_dir}/probe"]),
                dev | {"set": {"model": "{round_dir}/sft", "output": "{round_dir}/dev"}},
            ],
            "after": [self.stage("last", "{run}/last", ["{round_dir}/dev", "{best}"])],
        }

    def bring(self, *numbers: int) -> None:
        for number in numbers:
            (self.root / f"questions-{number}.txt").write_text(f"q{number};")

    def set_scores(self, *facts: float, tools: tuple[float, ...] = ()) -> None:
        """Scores of the models of round 1, 2, ..."""
        found: dict[str, dict[str, float]] = {f"round-{n}": {"facts": value} for n, value in enumerate(facts, 1)}
        for number, value in enumerate(tools, 1):
            found[f"round-{number}"]["tools"] = value
        self.scores.write_text(json.dumps(found))

    def reads(self, label: str, which: int = 0) -> str:
        """What the stage's last start read, relative to the run."""
        ledger = Ledger(self.run_dir / LEDGER)
        record = ledger.latest(label)
        ledger.close()
        assert record is not None
        return record.inputs[f"sources.{which}"]["path"].removeprefix(f"{self.run_dir}/")

    def choices(self) -> list[tuple[str, int, str]]:
        ledger = Ledger(self.run_dir / LEDGER)
        found = [(each.name, each.after_round, each.reason) for each in ledger.choices()]
        ledger.close()
        return found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenProject:
    made = OpenProject(tmp_path)
    monkeypatch.setenv("TEST_DIARY", str(made.diary_file))
    monkeypatch.setenv("TEST_SCORES", str(made.scores))
    return made


@pytest.mark.slow
def test_rounds_run_as_far_as_their_data_goes_and_continue_when_it_is_there(
    project: OpenProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.values["how_to_make"] = {f"{project.root}/questions-*.txt": "Ask people for the questions of round {round}"}
    project.set_scores(0.2, 0.1, 0.4)
    project.bring(1)
    assert project.run() == ["round-1/probe", "round-1/sft", "run/last"]
    out = capsys.readouterr().out
    assert "rounds 1 to 1 of 3 are finished: 4 stages run, 0 up to date" in out
    assert out.splitlines()[-4:] == [
        "round 2 waits for:",
        f"  {project.root}/questions-2.txt  (read by probe: sources.0)",
        "    Ask people for the questions of round 2",
        "When all of it is there, the same command continues with round 2.",
    ]
    assert project.run() == [], "it still waits"
    project.bring(2, 3)
    assert project.run() == ["round-2/probe", "round-2/sft", "round-3/probe", "round-3/sft", "run/last"]
    assert "finished: 7 stages run, 3 up to date" in capsys.readouterr().out
    assert project.run() == []


@pytest.mark.slow
def test_a_round_starts_when_its_best_model_is_chosen_next_to_what_is_left_of_the_round_before(
    project: OpenProject, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.recipes / "patient.py").write_text(PATIENT)
    project.bring(1, 2)
    project.set_scores(0.2, 0.4)
    each_round = project.values["each_round"]
    each_round.append(project.stage("eval", "{round_dir}/eval", ["{round_dir}/sft"]) | {"recipe": "patient"})
    project.values |= {"rounds": 2, "launcher": {"parallel": 2}}
    assert project.run().index("round-2/sft") > 0, "otherwise the evaluation would never have ended"
    diary = project.diary()
    assert diary.index("began round-2/probe") < diary.index("ended round-1/eval") < diary.index("began run/last")
    assert project.reads("round-2/sft") == "round-1/sft", "it was chosen by its evaluation"
    assert project.choices()[0] == ("best", 1, "round 1 scores 0.200")
    out = capsys.readouterr().out
    assert out.index("round 2 of 2") < out.index("  round-1/eval  ") < out.index("after the rounds")
    side_by_side = project.texts()
    project.run_dir.rename(project.root / "aside")
    del project.values["launcher"]
    assert project.run()[-5:] == ["round-1/eval", "round-2/probe", "round-2/sft", "round-2/eval", "run/last"]
    assert project.texts() == side_by_side


@pytest.mark.slow
def test_a_round_that_is_worse_keeps_the_former_best_and_the_ledger_says_why(
    project: OpenProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.bring(1, 2, 3)
    project.set_scores(0.2, 0.1, 0.15)
    project.values["after"].append(project.stage("card", "{run}/card", ["{best_round_dir}/dev"]))
    project.run()
    assert [project.reads(f"round-{number}/sft") for number in (2, 3)] == ["round-1/sft", "round-1/sft"]
    assert project.reads("last", 1) == "round-1/sft"
    assert project.reads("card") == "round-1/dev", "the evaluation of the model that is the best"
    expected = [
        ("best", 1, "round 1 scores 0.200"),
        ("best", 2, "round 1 stays: round 2 scores 0.100, not above 0.200"),
        ("best", 3, "round 1 stays: round 3 scores 0.150, not above 0.200"),
    ]
    assert project.choices() == expected
    out = capsys.readouterr().out
    for _, _, reason in expected:
        assert f"{{best}} is {project.run_dir}/round-1/sft: {reason}" in out
    assert project.run() == []
    assert project.choices() == expected, "the same choice is written once"


@pytest.mark.slow
def test_an_expert_is_chosen_by_another_rule(project: OpenProject) -> None:
    project.bring(1, 2, 3)
    project.set_scores(0.1, 0.2, 0.3, tools=(0.5, 0.9, 0.7))
    project.values["experts"] = {"tools": BEST | {"score": {"tools.right": 1.0}}}
    sampling = project.stage("sample", "{round_dir}/sample", ["{best:tools}", "{former_round_dir}/probe"])
    project.values["each_round"].append(sampling | {"first_round": 2})
    project.run()
    assert [project.reads(f"round-{n}/sample") for n in (2, 3)] == ["round-1/sft", "round-2/sft"]
    assert project.reads("round-3/sample", 1) == "round-2/probe"
    assert [project.reads(f"round-{n}/sft") for n in (2, 3)] == ["round-1/sft", "round-2/sft"]
    assert project.reads("last", 1) == "round-3/sft"
    assert [name for name, after, _ in project.choices() if after == 3] == ["best", "best:tools"]


@pytest.mark.slow
def test_the_start_stays_the_best_if_no_round_is_better(
    project: OpenProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.values["rounds"] = 1
    project.bring(1)
    project.set_scores(0.3)
    project.scores.write_text(json.dumps(json.loads(project.scores.read_text()) | {project.root.name: {"facts": 0.4}}))
    dev = project.values["each_round"][-1]
    project.values["once"] = [dev | {"name": "dev-start", "set": {"model": "{start}", "output": "{run}/dev-start"}}]
    project.values["best"] = BEST | {"start_evaluation": "dev-start"}
    project.values["after"].append(project.stage("card", "{run}/card", ["{best_round_dir}/dev"]))
    assert project.run() == ["round-1/probe", "round-1/sft", "run/last"]
    out = capsys.readouterr().out
    assert f"{{best}} is {project.start}: the start stays: round 1 scores 0.300, not above 0.400" in out
    assert "  card       left out: no round is better than the start\n" in out


def test_the_rule_weighs_scores_and_keeps_to_its_floors(tmp_path: Path) -> None:
    def evaluated(folder: str, **scores: float) -> None:
        (tmp_path / folder).mkdir(parents=True)
        for name, value in scores.items():
            record = {"name": name, "scores": {"right": {"value": value}}}
            (tmp_path / folder / f"{name}.json").write_text(json.dumps(record))

    evaluated("dev-start", facts=0.5, tools=0.5)
    evaluated("round-1/dev", facts=0.7, tools=0.4)
    evaluated("round-2/dev", facts=0.9, tools=0.1)
    evaluated("round-3/dev", facts=0.71, tools=0.4)
    start = tmp_path / "start"

    def chosen(rounds: int = 3, **settings: Any) -> tuple[int, str]:
        rule = BestConfig.model_validate(BEST | settings)
        choice = choose(rule, tmp_path, start, rounds)
        assert choice.path == (start if choice.round == 0 else tmp_path / f"round-{choice.round}" / "sft")
        return choice.round, choice.reason

    assert chosen() == (2, "round 2 stays: round 3 scores 0.710, not above 0.900")
    # Weighted by hand: 0.7 + 2 * 0.4 = 1.5, 0.9 + 2 * 0.1 = 1.1, 0.71 + 2 * 0.4 = 1.51; the start 0.5 + 2 * 0.5 = 1.5.
    both = {"score": {"facts.right": 1.0, "tools.right": 2.0}}
    assert chosen(**both) == (3, "round 3 scores 1.510, above 1.500 of round 1")
    assert chosen(**both, min_gain=0.05)[0] == 1
    assert chosen(**both, start_evaluation="dev-start")[0] == 3
    assert chosen(2, **both, start_evaluation="dev-start")[0] == 0, "as good as the start is no gain"
    assert chosen(2, floors={"tools.right": 0.3}) == (1, "round 1 stays: round 2 is below a floor (tools.right 0.100)")
    assert chosen(floors={"tools.right": 0.45}) == (0, "the start stays: round 3 is below a floor (tools.right 0.400)")
    lost = {"start_evaluation": "dev-start", "max_losses": {"tools.right": 0.2}}
    why = "round 1 stays: round 2 is below a floor (tools.right 0.100, 0.500 at the start)"
    assert chosen(2, **lost) == (1, why), "0.4 is at most 0.2 below 0.5, and 0.1 is not"
    assert chosen(**(lost | {"max_losses": {"tools.right": 0.05}}))[0] == 0
    assert choose(BestConfig(stage="sft"), tmp_path, start, 2).path == tmp_path / "round-2" / "sft"
    assert choose(BestConfig(stage="sft"), tmp_path, start, 0).path == start
    evaluated("round-4/dev", facts=0.1)
    assert chosen(4, **both) == (4, "round 4: its evaluation has no results yet"), "it was interrupted between the two"
    with pytest.raises(StageError, match=r"no evaluation has the metric facts.left. Name one of: facts.right, tools.r"):
        chosen(score={"facts.left": 1.0})


def test_mistakes_of_a_rule_are_found_before_the_first_stage(project: OpenProject) -> None:
    def message(**settings: Any) -> str:
        project.values["best"] = BEST | settings
        with pytest.raises(ConfigError) as caught:
            plan(project.config(), project.recipes)
        return str(caught.value)

    project.bring(1)
    plan(project.config(), project.recipes)
    assert "best: the stage round-3/dev runs no evaluation maths. Add a section maths" in message(floors={"maths.x": 1})
    assert "best: expects the stage round-3/sft to write" not in message(floors={"maths.x": 1})
    assert "which it is to evaluate. Set its model to {round_dir}/probe" in message(stage="probe")
    assert "'right' is no metric; write <evaluation>.<score>" in message(score={"right": 1.0})
    assert "evaluation is dev, and score names no metric to choose by" in message(score={})
    assert "min_gain is given, and evaluation, whose results it is about, is missing" in message(
        evaluation=None, score={}, min_gain=1.0
    )
    assert "max_losses compares with start, and start_evaluation" in message(max_losses={"facts.right": 0.1})
    assert "max_losses of facts.right is below 0" in message(start_evaluation="dev", max_losses={"facts.right": -0.1})
    project.values["each_round"][1]["set"]["output"] = "{round_dir}/model"
    project.values["each_round"][2]["set"]["model"] = "{round_dir}/model"
    project.values["after"] = []
    assert f"best: expects the stage round-3/sft to write {project.run_dir}/round-3/sft" in message()


def test_data_of_the_first_round_must_be_there(project: OpenProject) -> None:
    with pytest.raises(ConfigError, match=r"stage round-1/probe: sources.0: there is no .*questions-1.txt. Name"):
        project.run()
    assert not project.run_dir.exists()


ROWS = """
import json, sys
from pathlib import Path

if __name__ != "__main__":
    from align.config import Recipe
    from align.settings import InputSources, OutputPath

    class RowsRecipe(Recipe):
        path: InputSources
        output: OutputPath
else:
    settings = dict(setting.split("=", 1) for setting in sys.argv[2:])
    output = Path(settings["output"])
    output.mkdir(parents=True)
    (output / "rows.txt").write_text(settings["path"])
"""


@pytest.mark.slow
def test_batches_that_arrive_between_rounds_start_the_next_one_and_run_nothing_again(
    project: OpenProject, capsys: pytest.CaptureFixture[str]
) -> None:
    """One growing file: the reward model reads all rounds so far, DPO the latest; a round waits for its rows."""
    (project.recipes / "rows.py").write_text(ROWS)
    (project.root / "rows.yaml").write_text("{}")
    growing = project.root / "rows.jsonl"
    for name, latest in (("reward", None), ("dpo", 1)):
        source = {"path": str(growing), "rounds": {"up_to": "{round}", "latest": latest}}
        stage = {"name": name, "recipe": "rows", "config": str(project.root / "rows.yaml"), "before": "sft"}
        stage["set"] = {"path": [source], "output": f"{{round_dir}}/{name}"}
        project.values["each_round"].append(stage)
    project.bring(1, 2, 3)
    project.set_scores(0.2, 0.1, 0.4)

    def labels() -> list[str]:
        ledger = Ledger(project.run_dir / LEDGER)
        found = [record.label for record in ledger.stages()]
        ledger.close()
        return found

    growing.write_text("")
    with pytest.raises(ConfigError, match=r"path.0.path: there are no rows of rounds up to 1 in .*rows.jsonl. Collect"):
        project.plan()
    expected: list[str] = []
    for number in (1, 2, 3):
        with growing.open("a") as batch:
            batch.write(json.dumps({"prompt": f"{number}?", "round": number}) + "\n")
        project.run()
        stages = [f"round-{number}/{name}" for name in ("probe", "reward", "dpo", "sft", "dev")]
        expected += [*stages, "last"]
        assert labels() == expected, f"batch {number} starts round {number}, and runs no stage of an earlier round"
        out = capsys.readouterr().out
        assert (f"{growing}: no rows of rounds {number + 1}  (read by dpo: path.0.path)" in out) == (number < 3)
    assert [project.reads(f"round-{number}/sft") for number in (2, 3)] == ["round-1/sft", "round-1/sft"]


@pytest.mark.slow
def test_data_that_changes_while_the_rounds_run_counts_as_each_round_finds_it(project: OpenProject) -> None:
    """Data that is read whole in every round is replaced while round 1 runs: round 2 records what it has read."""
    shared = project.root / "shared"
    shared.mkdir()
    (shared / "all.txt").write_text("before;")
    project.values["rounds"] = 2
    project.values["best"] = "sft"
    editing = "    if here == 'round-1/sft':\n        Path(os.environ['TEST_SHARED']).write_text('after;')\n    read ="
    join = project.recipes / "join.py"
    join.write_text(join.read_text().replace("    read =", editing))
    project.values["each_round"] = [
        project.stage("probe", "{round_dir}/probe", [str(shared)]),
        project.stage("sft", "{round_dir}/sft", ["{round_dir}/probe"]),
    ]
    project.values["after"] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_SHARED", str(shared / "all.txt"))
        project.run()
    assert project.texts()["round-2/probe/0.txt"].startswith("after;")
    join.write_text(join.read_text().replace(editing, "    read ="))
    project.values["changed_code"] = "keep"
    assert project.run() == ["round-1/probe", "round-1/sft"], "only round 1 read another text than there is"


def test_names_with_rounds_leave_items_out_before_and_after_them(project: OpenProject) -> None:
    probe = project.values["each_round"][0]
    late = [
        "{round_dir:2}/a",
        "{every_round:2}/b",
        {"path": "{every_round}/c", "rounds": {"up_to": "{round}"}},
        "n-{every_round_number}",
    ]
    probe["set"]["text"] = late
    (project.recipes / "join.py").write_text(
        (project.recipes / "join.py").read_text().replace('text: str = ""', "text: object = None")
    )
    run = project.run_dir

    def texts(number: int) -> list[Any]:
        stages = load_stages(project.config(), project.recipes)
        return list(next(stage.config.text for stage in stages if stage.label == f"round-{number}/probe"))

    first = [{"path": f"{run}/round-1/c", "rounds": {"up_to": 1}}, "n-1"]
    assert texts(1) == first
    second = [f"{run}/round-2/a", f"{run}/round-2/b"]
    second += [{"path": f"{run}/round-{number}/c", "rounds": {"up_to": 2}} for number in (1, 2)]
    assert texts(2) == [*second, "n-1", "n-2"]
    assert texts(3)[:3] == [f"{run}/round-3/a", f"{run}/round-2/b", f"{run}/round-3/b"]
    probe["set"]["text"] = [{"rounds": {"up_to": "{round:1-2}"}}, "{every_round_number:2-2}", "{round_dir:2-2}/a"]
    assert texts(1) == [{"rounds": {"up_to": 1}}]
    assert texts(2) == [{"rounds": {"up_to": 2}}, 2, f"{run}/round-2/a"]
    assert texts(3) == [2]
    probe["set"]["text"] = "{round_dir:2}/a"
    with pytest.raises(ConfigError, match=r"set.text: \{round_dir:2\} has no value in round 1. Put it into a list"):
        load_stages(project.config(), project.recipes)
    probe["first_round"] = 2
    labels = [stage.label for stage in load_stages(project.config(), project.recipes)]
    assert "round-1/probe" not in labels
    assert "round-2/probe" in labels


def test_a_stage_alone_is_the_newest_model(project: OpenProject) -> None:
    project.values["best"] = "sft"
    config = load_config(RoundsConfig, project.write())
    assert config.best == BestConfig(stage="sft")
    assert config.choices(2)["best"].path == project.run_dir / "round-2" / "sft"
