"""YAML and key=value to a config: what is read, and every message that a mistake gets, word for word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from align.config import Recipe, Section, config_from_argv, dump, help_text, joined, load_config, main, parse_yaml
from align.errors import ConfigError, RowError


class Loss(Section):
    """How it is trained."""

    beta: float = Field(0.1, gt=0)
    """Pull towards the reference. Start from 0.1."""
    kind: Literal["mean", "sum"] = "mean"
    """How it is added up."""
    steps: int | None = None
    """Steps; None for all."""


class Source(Section):
    path: Path
    weight: float = 1.0


class Toy(Recipe):
    """A recipe for tests."""

    path: Path | tuple[Annotated[Path, "input"], ...]
    """What is read."""
    loss: Loss = Loss()
    more: Loss | None = None
    sources: dict[str, Source] = Field(default_factory=dict)
    parts: tuple[Source, ...] = ()
    name: str = Field("toy", pattern="^[a-z]+$")
    epochs: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _needs_epochs(self) -> Toy:
        if self.epochs > 9:
            raise ValueError("more than 9 epochs over-fit")
        return self


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def written(text: str) -> Path:
        path = tmp_path / "toy.yaml"
        path.write_text(text)
        return path

    return written


def message(path: Path, *overrides: str) -> str:
    """What a bad config is told, with the folder of the file left out."""
    with pytest.raises(ConfigError) as caught:
        load_config(Toy, path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_a_yaml_becomes_a_checked_config_with_defaults(write) -> None:
    config = load_config(Toy, write("path: rows.jsonl\nloss:\n  beta: 1e-5   # a number, as written\n"))
    assert config.path == Path("rows.jsonl")
    assert config.loss == Loss(beta=0.00001)
    assert config.more is None
    assert dump(config)["loss"] == {"beta": 1e-05, "kind": "mean", "steps": None}


def test_numbers_are_numbers_and_texts_texts() -> None:
    values, _ = parse_yaml("a: 1e-5\nb: 1.5E+3\nc: 2\nd: '1e-5'\ne: 1e5x\nf: [1e2, 3]\n", "x")
    assert values == {"a": 1e-5, "b": 1500.0, "c": 2, "d": "1e-5", "e": "1e5x", "f": [100.0, 3]}


def test_overrides_are_laid_over_the_file_in_order(write) -> None:
    path = write("path: a\nloss: {beta: 0.5}\n")
    overrides = ["loss.beta=0.2", "loss.kind=sum", "path=[b, c]", "path.1=d", "more.beta=1e-3", "sources.x.path=e"]
    config = load_config(Toy, path, overrides)
    assert config.loss == Loss(beta=0.2, kind="sum")
    assert config.path == (Path("b"), Path("d"))
    assert config.more == Loss(beta=0.001)
    assert config.sources == {"x": Source(path=Path("e"))}
    assert load_config(Toy, path, ["loss.beta=0.2", "loss.steps=3", "loss.steps="]).loss.steps is None


def test_a_config_cannot_be_changed(write) -> None:
    config = load_config(Toy, write("path: a\n"))
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3  # type: ignore[misc]


# Mistakes


def test_an_unknown_key_is_told_with_its_line_and_a_guess(write) -> None:
    told = message(write("path: a\n\nloss:\n  bta: 0.3\n"))
    assert told == "toy.yaml:4: loss.bta: is not a setting. Did you mean loss.beta?"
    told = message(write("path: a\nlos: {}\n"))
    assert told == "toy.yaml:2: los: is not a setting. Did you mean loss?"


def test_an_unknown_key_without_a_likeness_is_told_what_there_is(write) -> None:
    told = message(write("path: a\nloss: {quux: 1}\n"))
    assert told == "toy.yaml:2: loss.quux: is not a setting. Known here: beta, kind, steps."
    told = message(write("path: a\nmore: {quux: 1}\n"))
    assert told == "toy.yaml:2: more.quux: is not a setting. Known here: beta, kind, steps."


def test_keys_inside_mappings_and_lists_are_told_too(write) -> None:
    told = message(write("path: a\nsources:\n  mine:\n    path: b\n    wieght: 2\n"))
    assert told == "toy.yaml:5: sources.mine.wieght: is not a setting. Did you mean sources.mine.weight?"
    told = message(write("path: a\nparts:\n- path: b\n- path: c\n  weight: many\n"))
    wanted = "toy.yaml:5: parts.1.weight: must be a valid number, got 'many'. Start from 1.0."
    assert told == wanted


def test_a_wrong_value_is_told_with_one_to_start_from(write) -> None:
    told = message(write("path: a\nloss: {beta: -0.1}\n"))
    assert told == "toy.yaml:2: loss.beta: must be above 0, got -0.1. Start from 0.1."
    told = message(write("path: a\nepochs: 0\n"))
    assert told == "toy.yaml:2: epochs: must be above or equal to 1, got 0. Start from 1."
    told = message(write("path: a\nloss: {kind: max}\n"))
    assert told == "toy.yaml:2: loss.kind: must be 'mean' or 'sum', got 'max'. Start from 'mean'."
    told = message(write("path: a\nepochs: few\n"))
    assert told == "toy.yaml:2: epochs: must be a valid integer, got 'few'. Start from 1."
    told = message(write("path: a\nname: A-1\n"))
    assert told == "toy.yaml:2: name: must match pattern '^[a-z]+$', got 'A-1'. Start from 'toy'."
    told = message(write("path: a\nloss: {steps: x}\n"))
    assert told == "toy.yaml:2: loss.steps: must be a valid integer, got 'x'. Steps; None for all."
    told = message(write("path: a\nloss: 3\n"))
    assert told == "toy.yaml:2: loss: must be a valid dictionary or instance of Loss, got 3. See --help."


def test_what_may_be_of_two_types_is_told_once(write) -> None:
    told = message(write("path: 3\n"))
    assert told == "toy.yaml:1: path: must be a path, got 3. What is read."
    assert message(write("path: [a, 3]\n")).startswith("toy.yaml:1: path")


def test_a_missing_key_is_told_with_its_meaning(write) -> None:
    assert message(write("epochs: 2\n")) == "toy.yaml: path: is wanted and not given. Add it: What is read."
    told = message(write("path: a\nsources: {mine: {}}\n"))
    assert told == "toy.yaml:2: sources.mine.path: is wanted and not given. Add it to the file."
    assert message(write("")) == "toy.yaml: path: is wanted and not given. Add it: What is read."


def test_a_check_over_the_whole_recipe_points_at_the_file(write) -> None:
    assert message(write("path: a\nepochs: 10\n")) == "toy.yaml: more than 9 epochs over-fit. See --help."


def test_several_mistakes_are_a_line_each(write) -> None:
    told = message(write("loss:\n  bta: 0.3\n  beta: 0\nepochs: x\n"))
    assert told.splitlines() == [
        "toy.yaml: path: is wanted and not given. Add it: What is read.",
        "toy.yaml:3: loss.beta: must be above 0, got 0. Start from 0.1.",
        "toy.yaml:2: loss.bta: is not a setting. Did you mean loss.beta?",
        "toy.yaml:4: epochs: must be a valid integer, got 'x'. Start from 1.",
    ]


def test_joining_keeps_each_message_whole() -> None:
    first, second = ConfigError("a", "is wrong", "Mend it?"), ConfigError("b", "too", "Likewise")
    assert joined([first]) is first
    assert str(joined([first, second])) == "a: is wrong. Mend it?\nb: too. Likewise."
    assert str(joined([second, first])) == "b: too. Likewise.\na: is wrong. Mend it?"


def test_mistakes_on_the_command_line_say_so(write) -> None:
    path = write("path: a\nloss: {beta: 0.5}\n")
    told = message(path, "loss.bta=1")
    assert told == "command line: loss.bta: is not a setting. Did you mean loss.beta?"
    assert message(path, "loss.beta=0").startswith("command line: loss.beta: must be above 0, got 0.")
    assert message(path, "lss.beta=1") == "command line: lss: is not a setting. Did you mean loss?"
    assert message(path, "loss") == "loss: wanted key=value. Write for example dpo.beta=0.2."
    assert message(path, "=3") == "=3: wanted key=value. Write for example dpo.beta=0.2."
    told = message(path, "path.x.y=1")
    assert told == "path.x.y=1: there is no x to set a value in. See --help for the settings."
    assert message(path, "path=[a]", "path.3=b") == "path.3=b: there is no 3 to set. See --help for the settings."
    told = message(write("path: a\nloss: {beta: 0}\n"), "epochs=2")
    assert told.startswith("toy.yaml:2: loss.beta"), "a key that was not overridden keeps its line"


def test_a_value_that_is_no_yaml_is_taken_as_text(write) -> None:
    assert load_config(Toy, write("path: a\n"), ["path=[a"]).path == Path("[a")


def test_what_is_not_yaml_is_told_with_its_line(write) -> None:
    told = message(write("path: a\nloss: [1\n"))
    assert told.startswith("toy.yaml:3: is not YAML: ")
    assert told.endswith("Mend that line.")
    told = message(write("- a\n- b\n"))
    assert told == "toy.yaml: wanted settings as `key: value`, found a list. Write one setting a line."
    assert message(write("text\n")).startswith("toy.yaml: wanted settings as `key: value`, found a single value.")


def test_a_key_given_twice_is_refused(write) -> None:
    told = message(write("path: a\nloss:\n  beta: 1\n  kind: sum\n  beta: 2\n"))
    assert told == "toy.yaml:5: loss.beta: is given twice (first in line 3). Keep one of them."


def test_aliases_and_tags_are_refused(write) -> None:
    told = message(write("path: &here a\nname: *here\n"))
    assert told == "toy.yaml:2: an alias (*here) is not read here. Write the value out."
    told = message(write("path: !!python/object/apply:os.getcwd []\n"))
    assert told.startswith("toy.yaml: holds a value that the safe loader does not build: could not determine")
    assert told.endswith("Write plain values.")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    told = message(tmp_path / "none.yaml")
    assert told == "none.yaml: cannot be read (No such file or directory). Name a YAML file first, then key=value."


# The command line


def test_help_tells_every_setting_with_type_default_and_meaning() -> None:
    lines = help_text(Toy, "toy.py").splitlines()
    assert lines[0] == "usage: toy.py CONFIG.yaml [key=value ...]"
    assert "A recipe for tests." in lines
    place = lines.index("  loss.beta (float, default 0.1)")
    assert lines[place + 1] == "      Pull towards the reference. Start from 0.1."
    told = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    assert {"path", "loss.beta", "loss.kind", "more.beta", "name", "epochs"} <= told
    assert {"sources.<name>.path", "sources.<name>.weight", "parts.<number>.path"} <= told


def test_help_and_nothing_leave_with_their_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, code in ((["--help"], 0), (["-h"], 0), ([], 2)):
        with pytest.raises(SystemExit) as left:
            config_from_argv(Toy, argv)
        assert left.value.code == code
        assert capsys.readouterr().out.startswith("usage: ")


def test_a_bad_config_is_printed_and_leaves_with_2(write, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        config_from_argv(Toy, [str(write("path: a\nepochs: 0\n"))])
    assert left.value.code == 2
    assert "epochs: must be above or equal to 1" in capsys.readouterr().err


def test_main_runs_and_tells_a_mendable_error_without_a_traceback(write, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    main(Toy, lambda config: seen.append(config.path), [str(write("path: a\n")), "path=b"])
    assert seen == [Path("b")]

    def fail(config: Toy) -> None:
        raise RowError(config.path, "is empty", "Fill it")

    with pytest.raises(SystemExit) as left:
        main(Toy, fail, [str(write("path: a\n"))])
    assert left.value.code == 1
    assert capsys.readouterr().err == "a: is empty. Fill it.\n"


def test_what_only_we_can_have_broken_keeps_its_traceback(write) -> None:
    def fail(config: Toy) -> None:
        raise AssertionError("broken")

    with pytest.raises(AssertionError, match="broken"):
        main(Toy, fail, [str(write("path: a\n"))])


def test_reading_a_config_does_not_import_torch() -> None:
    code = "import sys, align.config, align.settings; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
