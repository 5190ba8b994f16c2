"""Files of rounds that share their stages, and what each of them changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.config import load_config
from align.errors import ConfigError
from align.rounds.plan import load_stages
from tests.rounds_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose stages are in a file of their own."""
    made = Project(tmp_path)
    shared = {part: made.values.pop(part) for part in ("once", "each_round", "after")}
    shared["each_round"][1]["config"] = str(tmp_path / "{size}.yaml")
    (tmp_path / "small.yaml").write_text('{"text": "small;"}')
    (tmp_path / "stages.yaml").write_text(json.dumps(shared))
    made.values |= {"stages": str(tmp_path / "stages.yaml"), "variables": {"size": "small"}, "rounds": 1}
    return made


def commands(project: Project) -> dict[str, Any]:
    """Label -> config of each stage."""
    return {stage.label: stage.config for stage in load_stages(project.config(), project.recipes)}


def message(project: Project) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(type(project.config()), project.write())
    return str(caught.value)


def test_shared_stages_are_those_of_the_file(project: Project) -> None:
    assert list(commands(project)) == ["data", "round-1/reward", "round-1/sft", "last"]
    assert commands(project)["round-1/sft"].text == "small;"
    assert project.plan()[2].command[2] == str(project.root / "small.yaml")


def test_a_file_changes_stages_by_name_and_adds_its_own(project: Project) -> None:
    more = project.stage("more", "{round_dir}/more", ["{round_dir}/reward"])
    project.values["each_round"] = [
        {"name": "reward", "set": {"parts": 3}},
        {"name": "reward-2", "like": "reward", "before": "sft", "set": {"text": "two", "output": "{round_dir}/two"}},
        more | {"before": "reward-2"},
        more | {"name": "end", "set": {"output": "{round_dir}/end"}},
    ]
    found = commands(project)
    names = ["reward", "more", "reward-2", "sft", "end"]
    assert [label for label in found if label.startswith("round")] == [f"round-1/{name}" for name in names]
    assert found["round-1/reward"].parts == 3
    assert found["round-1/reward"].sources == (project.run_dir / "data",), "what is not changed stays"
    assert found["round-1/reward-2"].parts == 3, "a repetition has the changes of what it repeats"
    assert found["round-1/reward-2"].text == "two"
    assert found["round-1/reward-2"].output == project.run_dir / "round-1" / "two"


def test_a_launch_file_may_be_a_variable_without_a_value(project: Project) -> None:
    launch = project.root / "launch.yaml"
    launch.write_text("num_processes: 2\n")
    project.values["each_round"] = [{"name": "sft", "launch": "{train}"}]
    for value, expected in ((str(launch), launch), (None, None)):
        project.values["variables"]["train"] = value
        assert project.plan()[2].launch == expected


def test_variables_hold_names(project: Project) -> None:
    project.values["each_round"] = [{"name": "sft", "set": {"sources": ["{model}"], "text": "{both}"}}]
    project.values["variables"] |= {"model": "{round_dir}/{part}", "part": "reward", "both": "{size} {round}"}
    assert commands(project)["round-1/sft"].sources == (project.run_dir / "round-1" / "reward",)
    assert commands(project)["round-1/sft"].text == "small 1"
    project.values["variables"]["part"] = "{model}"
    with pytest.raises(ConfigError, match=r"\{model\} is not known here"):
        commands(project)


def test_mistakes_in_stages_and_variables_are_named(project: Project) -> None:
    def with_stage(**stage: Any) -> str:
        project.values["each_round"] = [stage]
        return message(project)

    assert "each_round: new: recipe is required, and no shared stage of this name has one" in with_stage(name="new")
    assert "new: before names nothing, which is no stage before it in each_round" in with_stage(
        name="new", before="nothing"
    )
    assert "sft is a shared stage, which like and before cannot change" in with_stage(name="sft", before="reward")
    del project.values["each_round"]
    project.values["variables"]["unused"] = 1
    assert "variables has unused, which no stage uses" in message(project)
    project.values["variables"] = {"size": "small", "run": "x"}
    assert "variables has run, which is a name already" in message(project)
    project.values["variables"] = {"size": "small"}
    (project.root / "stages.yaml").write_text("once:\n- name: a\n  shows: true\n")
    text = message(project)
    assert f"{project.root}/stages.yaml:3: once.0.shows: is not a setting. Did you mean once.0.show?" in text
