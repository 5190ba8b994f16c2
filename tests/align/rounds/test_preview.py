"""What the next start would do after one change to a finished run: exactly what depends on the change runs again."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from align.assets import ASSETS, assets_folder
from align.rounds import libraries
from align.rounds.changes import changes_since
from align.rounds.commands import answered
from align.rounds.preview import Preview, plan_text, preview
from align.rounds.processes import run_process
from tests.rounds_project import JOIN, Project

READS = {
    "data": [],
    "bench": [],
    "round-1/reward": ["data"],
    "round-1/candidates": ["round-1/reward"],
    "round-1/sft": ["round-1/candidates"],
    "round-1/average": ["round-1/sft"],
    "round-2/reward": ["data"],
    "round-2/candidates": ["round-1/average", "round-2/reward"],
    "round-2/sft": ["round-1/candidates", "round-2/candidates"],
    "round-2/average": ["round-2/sft"],
    "last": ["round-2/average"],
}
"""Stage -> the stages whose outputs it reads, written by hand."""
CANDIDATES = {"round-1/candidates", "round-2/candidates"}
READ_START = {"data", "round-1/candidates", "round-1/sft", "round-2/sft"}
JOINED = set(READS) - CANDIDATES - {"bench"}
"""The stages of the recipe join."""
COUNTRIES = ASSETS["countryinfo"].folder


class Rounds(Project):
    """Two rounds of stages with three recipes, a launch file, an asset and data from outside."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        other = JOIN.replace("JoinRecipe", "OtherRecipe") + "\n\ndef never():\n    import torch\n"
        (self.recipes / "other.py").write_text(other)
        packed = JOIN.replace("JoinRecipe", "PackedRecipe") + "\n\ndef never():\n    import data_builders.packaged\n"
        (self.recipes / "packed.py").write_text(packed)
        self.facts, self.bench, self.launch = root / "facts.txt", root / "bench", root / "launch.yaml"
        self.facts.write_text("facts;")
        self.bench.mkdir()
        (self.bench / "1.txt").write_text("bench;")
        self.launch.write_text("distributed_type: DEEPSPEED\ndeepspeed_config_file: zero3.json\nnum_processes: 1\n")
        (root / "zero3.json").write_text("{}")
        data = self.stage("data", "{run}/data", ["{start}", str(self.facts)])
        bench = self.stage("bench", "{run}/bench", [f"{self.bench}/*.txt"]) | {"recipe": "packed"}
        candidates = self.stage("candidates", "{round_dir}/candidates", ["{best}", "{round_dir}/reward"])
        self.values |= {
            "best": "average",
            "once": [data, bench],
            "each_round": [
                self.stage("reward", "{round_dir}/reward", ["{run}/data"]),
                candidates | {"recipe": "other", "launch": str(self.launch), "launch_rounds": [2]},
                self.stage("sft", "{round_dir}/sft", ["{start}", "{every_round}/candidates"]),
                self.stage("average", "{round_dir}/average", ["{round_dir}/sft"]),
            ],
        }

    def preview(self) -> Preview:
        return preview(self.config(), self.recipes)

    def named(self, name: str) -> dict[str, Any]:
        """A stage of the rounds file."""
        stages = [*self.values["once"], *self.values["each_round"], *self.values["after"]]
        return next(stage for stage in stages if stage["name"] == name)

    def verdicts(self) -> dict[str, str]:
        return {stage.label: stage.verdict for stage in self.preview().stages}


def without_launcher(command: Sequence[str], *others: Any, **named: Any) -> int:
    """The recipes here are plain scripts: accelerate, which takes seconds to start, is left out."""
    recipe = next(place for place, word in enumerate(command) if word.endswith(".py"))
    return run_process((command[0], *command[recipe:]), *others, **named)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rounds]:
    """A run that has ended, for all tests: `rounds` puts back what one of them changes."""
    root = tmp_path_factory.mktemp("rounds")
    shutil.copytree(assets_folder() / COUNTRIES, root / "assets" / COUNTRIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_ASSETS", str(root / "assets"))
        patch.setattr(libraries, "_version", lambda distribution: "1")
        patch.setattr("align.rounds.driver.run_process", without_launcher)
        made = Rounds(root)
        patch.setenv("TEST_DIARY", str(made.diary_file))
        assert len(made.run()) == len(READS)
        yield made


@pytest.fixture(scope="module")
def files(finished: Rounds) -> dict[Path, bytes]:
    return contents(finished.root)


def contents(root: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.fixture
def rounds(finished: Rounds, files: dict[Path, bytes]) -> Iterator[Rounds]:
    """The finished run, put back as it was after each test: its files and its values."""
    values, start = json.dumps(finished.values), finished.start
    yield finished
    now = contents(finished.root)
    for file in now.keys() - files.keys():
        file.unlink()
    for file in (file for file, content in files.items() if now.get(file) != content):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(files[file])
    finished.values, finished.start = json.loads(values), start


def after(*stages: str) -> set[str]:
    """The stages that read what these make, and those that read theirs, by the table above."""
    found: set[str] = set()
    while more := {stage for stage, read in READS.items() if found.union(stages) & set(read)} - found - set(stages):
        found |= more
    return found


# One change each: of a setting, the rounds file, data, code, a launch file, a package, a library, an output, the ledger


def setting(name: str, **values: Any) -> Callable[[Rounds], None]:
    def change(rounds: Rounds) -> None:
        config = rounds.root / f"{name}.yaml"
        config.write_text(json.dumps(json.loads(config.read_text()) | values))

    return change


def in_rounds_file(**values: Any) -> Callable[[Rounds], None]:
    return lambda rounds: rounds.values.update(values)


def of_stage(name: str, **values: Any) -> Callable[[Rounds], None]:
    return lambda rounds: rounds.named(name).update(values)


def set_of(name: str, **values: Any) -> Callable[[Rounds], None]:
    return lambda rounds: rounds.named(name)["set"].update(values)


def written(place: str, text: str) -> Callable[[Rounds], None]:
    def change(rounds: Rounds) -> None:
        (rounds.root / place).parent.mkdir(exist_ok=True)
        (rounds.root / place).write_text(text)

    return change


def replaced(place: str, old: str, new: str) -> Callable[[Rounds], None]:
    def change(rounds: Rounds) -> None:
        text = (rounds.root / place).read_text()
        assert old in text
        (rounds.root / place).write_text(text.replace(old, new, 1))

    return change


def gone(place: str) -> Callable[[Rounds], None]:
    def change(rounds: Rounds) -> None:
        path = rounds.root / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def start_moved(rounds: Rounds) -> None:
    shutil.copytree(rounds.start, rounds.root / "moved")
    rounds.values["start"] = str(rounds.root / "moved")


def facts_renamed(rounds: Rounds) -> None:
    rounds.facts.rename(rounds.root / "renamed.txt")
    rounds.named("data")["set"]["sources"][1] = str(rounds.root / "renamed.txt")


def country_changed(rounds: Rounds) -> None:
    country = min((rounds.root / "assets").rglob("chad.json"))
    country.write_bytes(country.read_bytes().replace(b"a", b"b", 1))


def library(module: str, version: str) -> Callable[[Rounds], None]:
    def change(rounds: Rounds) -> None:
        pytest.MonkeyPatch().setattr(libraries, "_version", lambda name: version if name == module else "1")

    return change


def both(first: Callable[[Rounds], None], second: Callable[[Rounds], None]) -> Callable[[Rounds], None]:
    def change(rounds: Rounds) -> None:
        first(rounds)
        second(rounds)

    return change


def in_ledger(query: str) -> Callable[[Rounds], None]:
    def change(rounds: Rounds) -> None:
        with sqlite3.connect(rounds.run_dir / "ledger.sqlite") as db:
            assert db.execute(query).rowcount == 1

    return change


def of_rounds(name: str) -> set[str]:
    return {label for label in READS if label.rpartition("/")[2] == name}


EDIT = ('"".join(read) + text', '"".join(read) + text + "+"')
NOTHING: set[str] = set()
MUTATIONS: dict[str, tuple[Callable[[Rounds], None], set[str]]] = {
    **{
        f"setting {key} of {name}": (setting(name, **{key: value}), of_rounds(name))
        for name in ("data", "bench", "reward", "candidates", "sft", "average", "last")
        for key, value in (("text", "other;"), ("parts", 2))
    },
    "setting that is a float": (setting("reward", seconds=0.5), of_rounds("reward")),
    "setting given as its default": (setting("reward", seconds=0.0), NOTHING),
    "where a model is pushed": (setting("average", hub={"repo": "me/model", "push": True}), NOTHING),
    "set in the rounds file": (set_of("data", text="other;"), {"data"}),
    "set to the number of the round": (set_of("reward", text="in round {round};"), of_rounds("reward")),
    "another input": (set_of("average", sources=["{round_dir}/sft", "{run}/data"]), of_rounds("average")),
    "inputs in another order": (set_of("data", sources=["{start}/../facts.txt", "{start}"]), {"data"}),
    "one round less": (in_rounds_file(rounds=1), {"last"}),
    "start moved": (start_moved, NOTHING),
    "start with other content": (written("start/model.txt", "other;"), READ_START),
    "start with one more file": (written("start/more.txt", "more;"), READ_START),
    "start with a hidden file": (written("start/.hidden", "more;"), NOTHING),
    "facts with other content": (written("facts.txt", "other;"), {"data"}),
    "facts renamed": (facts_renamed, NOTHING),
    "a file that nothing reads": (written("unrelated.txt", "x"), NOTHING),
    "a file of a pattern": (written("bench/1.txt", "other;"), {"bench"}),
    "one more file of a pattern": (written("bench/2.txt", "more;"), {"bench"}),
    "how long a stage may take to stop": (in_rounds_file(stop_seconds=5.0), NOTHING),
    "show what a stage prints": (of_stage("sft", show=True), NOTHING),
    "launch file": (replaced("launch.yaml", "processes: 1", "processes: 2"), {"round-2/candidates"}),
    "DeepSpeed file of the launch file": (written("zero3.json", '{"a": 1}'), {"round-2/candidates"}),
    "launched in both rounds": (of_stage("candidates", launch_rounds=[1, 2]), {"round-1/candidates"}),
    "no longer launched": (of_stage("candidates", launch=None, launch_rounds=None), {"round-2/candidates"}),
    "code of one recipe": (replaced("recipes/join.py", *EDIT), JOINED),
    "code of another recipe": (replaced("recipes/other.py", *EDIT), CANDIDATES),
    "a comment": (replaced("recipes/join.py", "import json", "# why\nimport json"), NOTHING),
    "data file of a recipe": (written("recipes/other.json", "{}"), CANDIDATES),
    "code that is kept": (both(replaced("recipes/join.py", *EDIT), in_rounds_file(changed_code="keep")), NOTHING),
    "code that is kept, and a setting": (
        both(both(replaced("recipes/join.py", *EDIT), in_rounds_file(changed_code="keep")), setting("sft", parts=2)),
        of_rounds("sft"),
    ),
    "packaged data": (country_changed, {"bench"}),
    "packaged data deleted from the cache": (gone(f"assets/{COUNTRIES}"), NOTHING),
    "upgrade of torch": (library("torch", "2"), CANDIDATES),
    "upgrade of deepspeed": (library("deepspeed", "2"), {"round-2/candidates"}),
    "upgrade of a library that no stage uses": (library("vllm", "2"), NOTHING),
    "torch is not installed": (library("torch", ""), NOTHING),
    "a flipped bit in an output": (replaced("run/round-1/reward/0.txt", "s", "S"), {"round-1/reward"}),
    "an output that is gone": (gone("run/round-2/sft"), {"round-2/sft"}),
    "a file too many in an output": (written("run/round-1/sft/more.txt", "x"), {"round-1/sft"}),
    "a hidden file in an output": (written("run/round-1/sft/.hidden", "x"), NOTHING),
    "units of work in an output": (written("run/round-1/sft/units/units.json", "{}"), NOTHING),
    "ledger lost": (gone("run/ledger.sqlite"), NOTHING),
    "record in a stage's folder lost": (gone("run/data/.stage"), NOTHING),
    "interrupted": (
        in_ledger("UPDATE stages SET status = 'running', ended = NULL WHERE label = 'round-1/sft'"),
        {"round-1/sft"},
    ),
    "failed": (in_ledger("UPDATE stages SET status = 'failed' WHERE label = 'bench'"), {"bench"}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_change_runs_again_exactly_what_depends_on_it(
    name: str, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, expected = MUTATIONS[name]
    with monkeypatch.context() as patch:
        patch.setattr(libraries, "_version", libraries._version)
        change(rounds)
        verdicts = rounds.verdicts()
    assert {label for label, verdict in verdicts.items() if verdict == "runs"} == expected
    may_run = {label for label, verdict in verdicts.items() if verdict == "may run"}
    assert may_run == (after(*expected) & verdicts.keys()) - expected


def test_there_are_forty_changes_and_more() -> None:
    assert len(MUTATIONS) > 40
    assert sum(not expected for _, expected in MUTATIONS.values()) > 10


def test_one_more_round_runs_its_own_stages_and_what_follows(rounds: Rounds) -> None:
    rounds.values["rounds"] = 3
    verdicts = rounds.verdicts()
    assert {label for label, verdict in verdicts.items() if verdict == "runs"} == {
        f"round-3/{name}" for name in ("reward", "candidates", "sft", "average")
    }
    assert {label for label, verdict in verdicts.items() if verdict == "may run"} == {"last"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["setting text of reward", "code of another recipe", "a flipped bit in an output"])
def test_a_start_runs_what_the_preview_says(rounds: Rounds, name: str) -> None:
    MUTATIONS[name][0](rounds)
    verdicts = rounds.verdicts()
    ran = {place.removeprefix("run/") for place in rounds.run()}
    assert {label for label, verdict in verdicts.items() if verdict == "runs"} <= ran
    assert ran <= {label for label, verdict in verdicts.items() if verdict != "up to date"}
    assert set(rounds.verdicts().values()) == {"up to date"}


def test_a_setting_that_an_upgrade_added_is_kept_with_the_code(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of these candidates had no setting `extra`; it has one now, with a default."""
    replaced("recipes/other.py", "        parts: int", "        extra: int = 3\n        parts: int")(rounds)
    monkeypatch.delitem(sys.modules, "_recipe_other")  # the class of the recipe as it was
    assert {label for label, verdict in rounds.verdicts().items() if verdict == "runs"} == CANDIDATES
    rounds.values["changed_code"] = "keep"
    found = {stage.label: stage for stage in rounds.preview().stages}
    assert {stage.verdict for stage in found.values()} == {"up to date"}
    expected = "though settings changed: extra; code changed: recipes/other.py (changed_code: keep)"
    assert found["round-1/candidates"].reason == expected
    setting("candidates", extra=4)(rounds)
    assert {label for label, verdict in rounds.verdicts().items() if verdict == "runs"} == CANDIDATES


def test_a_round_waits_for_its_data_and_the_stages_after_it_are_those_of_the_last_round(rounds: Rounds) -> None:
    rounds.named("reward")["set"]["sources"] = ["{run}/data", str(rounds.root / "batch-{round}.txt")]
    (rounds.root / "batch-1.txt").write_text("batch;")
    found = rounds.preview()
    assert [each.what for each in found.waiting] == [str(rounds.root / "batch-2.txt")]
    assert {stage.label for stage in found.stages} == {label for label in READS if not label.startswith("round-2/")}
    assert {stage.label for stage in found.stages if stage.verdict == "runs"} == {"round-1/reward"}
    assert f"round 2 waits for: {rounds.root}/batch-2.txt" in plan_text(found)


@pytest.mark.slow
def test_a_model_that_is_chosen_by_an_evaluation_is_the_one_that_a_start_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path)
    monkeypatch.setenv("TEST_DIARY", str(project.diary_file))
    scored = '    (output / "a.json").write_text(\'{"name": "text", "scores": {"right": {"value": 0.5}}}\')\n'
    dev = JOIN.replace("JoinRecipe", "DevRecipe").replace('    print("joined"', scored + '    print("joined"')
    (project.recipes / "dev.py").write_text(dev)
    project.values["each_round"].append(
        project.stage("dev", "{round_dir}/dev", ["{round_dir}/sft"]) | {"recipe": "dev"}
    )
    project.values["best"] = {"stage": "sft", "evaluation": "dev", "score": {"text.right": 1.0}}
    project.run()
    found = preview(project.config(), project.recipes)
    assert {stage.verdict for stage in found.stages} == {"up to date"}
    last = found.stages[-1].decision.stage
    assert [*last.inputs.values()] == [project.run_dir / "round-1" / "sft"], "round 2 is not better"
    assert not found.chosen_later
    (project.root / "dev.yaml").write_text('{"text": "other;"}')
    found = preview(project.config(), project.recipes)
    assert found.chosen_later == ("round-1/dev", "round-2/dev")
    assert "the best model is chosen again after round-1/dev, round-2/dev, and may be another one" in plan_text(found)


# What the commands print


def said(capsys: pytest.CaptureFixture[str], rounds: Rounds, command: str, *words: str) -> str:
    assert answered([command, str(rounds.write()), *words], rounds.recipes)
    return capsys.readouterr().out


def test_the_commands_write_nothing(rounds: Rounds, capsys: pytest.CaptureFixture[str]) -> None:
    setting("sft", parts=2)(rounds)
    rounds.write()
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in rounds.root.rglob("*")}
    for words in (["status"], ["plan"], ["why", "sft"], ["gc"]):
        said(capsys, rounds, *words)
    after = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in rounds.root.rglob("*")}
    assert after.keys() == before.keys()
    changed = {file.name for file in after if after[file] != before[file]}
    assert changed <= {"rounds.yaml", rounds.root.name}, "the test itself writes the rounds file"


def test_plan_says_what_runs_why_and_how_long_it_took(rounds: Rounds, capsys: pytest.CaptureFixture[str]) -> None:
    assert "11 stages: 0 run, 11 are up to date" in said(capsys, rounds, "plan")
    setting("sft", parts=2)(rounds)
    with sqlite3.connect(rounds.run_dir / "ledger.sqlite") as db:
        db.execute("UPDATE stages SET ended = started + 600 WHERE name IN ('sft', 'average')")
    out = said(capsys, rounds, "plan")
    lines = {line.split()[0]: " ".join(line.split()) for line in out.splitlines()}
    assert lines["data"] == "data up to date"
    assert lines["round-1/sft"] == "round-1/sft runs 10 min 0 s settings changed: parts"
    expected = "round-2/sft runs 10 min 0 s settings changed: parts; reads what round-2/candidates makes"
    assert lines["round-2/sft"] == expected
    average = "round-1/average may run 10 min 0 s if round-1/sft makes something else than before"
    assert lines["round-1/average"] == average
    assert lines["11"].startswith("11 stages: 2 run in about 20 min 0 s, 4 may run in about 20 min")
    assert lines["11"].endswith("5 are up to date")


def test_a_first_start_is_planned_without_a_folder(rounds: Rounds, capsys: pytest.CaptureFixture[str]) -> None:
    rounds.values["run_dir"] = str(rounds.root / "another")
    out = said(capsys, rounds, "plan")
    assert out.count("it has not run yet") == 11
    assert "11 stages: 11 run, 0 are up to date" in out
    assert not (rounds.root / "another").exists()


def test_why_names_each_change_with_its_values(rounds: Rounds, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, rounds, "why", "data")
    assert "data: up to date" in out
    assert "nothing that decides its result has changed, and its outputs are as they were" in out
    setting("data", parts=2)(rounds)
    replaced("recipes/join.py", *EDIT)(rounds)
    rounds.facts.write_text("other;")
    out = said(capsys, rounds, "why", "data")
    assert "data: runs" in out
    assert "  setting        parts: 1 -> 2" in out
    assert "  code           recipes/join.py: content " in out
    assert f"  input          sources.1 ({rounds.facts}): content " in out
    out = said(capsys, rounds, "why", "reward")
    assert [line for line in out.splitlines() if line.endswith(": runs")] == [
        "round-1/reward: runs",
        "round-2/reward: runs",
    ]
    assert f"  input          sources.0 ({rounds.run_dir}/data): made before it is this stage's turn" in out
    (rounds.run_dir / "bench" / "0.txt").write_text("edited")
    assert f"{rounds.run_dir}/bench/0.txt changed since the stage ended" in said(capsys, rounds, "why", "bench")


def test_an_upgrade_is_explained(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(libraries, "_version", lambda name: "2" if name == "torch" else "1")
    assert "  library        torch 1 -> 2" in said(capsys, rounds, "why", "round-1/candidates")
    assert "libraries changed: torch 1 -> 2: stages whose code uses them are made again" in said(capsys, rounds, "plan")


@pytest.mark.parametrize(
    "words, expected",
    [
        (["why", "CONFIG"], "command line: expected 1 words after the config, got none. Usage: why CONFIG.yaml STAGE"),
        (["plan", "CONFIG", "sft"], "expected 0 words after the config, got 1 (sft)"),
        (["why", "CONFIG", "round-1/stf"], "stage round-1/stf: the config has no such stage. Known: round-1/sft"),
        (["gc", "CONFIG", "--delete=unit"], "--delete: 'unit' is no kind of file. Known: removed, checkpoints, units"),
        (["status", "CONFIG", "rounds=0"], "rounds: must be above 0"),
    ],
)
def test_a_mistake_in_a_command_is_one_message(
    rounds: Rounds, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        answered([str(rounds.write()) if word == "CONFIG" else word for word in words], rounds.recipes)
    assert left.value.code == 2
    assert expected in capsys.readouterr().err


def test_words_that_are_no_command_are_left_to_the_recipe(rounds: Rounds) -> None:
    assert not answered([str(rounds.write())], rounds.recipes)
    assert not answered([], rounds.recipes)


def test_inputs_that_came_or_went_are_named(rounds: Rounds) -> None:
    rounds.named("data")["set"]["sources"] = [str(rounds.facts)]
    rounds.named("last")["set"]["sources"] = ["{best}", str(rounds.facts)]
    reasons = {stage.label: stage.reason for stage in rounds.preview().stages}
    assert f"input removed: sources.1 ({rounds.facts})" in reasons["data"]
    assert reasons["last"].startswith(f"input added: sources.1 ({rounds.facts})")


def test_a_new_setting_that_is_null_is_a_change(rounds: Rounds) -> None:
    (record,) = [stage.decision.record for stage in rounds.preview().stages if stage.label == "bench"]
    assert record is not None
    found = changes_since(record, record.config | {"search": None}, record.inputs, record.code)
    assert [(change.name, change.before, change.now) for change in found] == [("search", "", "null")]
