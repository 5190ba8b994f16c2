"""YAML and key=value to a config: what is read, and every message that a mistake gets, word for word."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from align.config import (
    Recipe,
    Section,
    _hub_names,
    config_from_argv,
    dump,
    help_text,
    joined,
    load_config,
    main,
    parse_yaml,
)
from align.errors import CheckpointError, ConfigError, RowError, StageError


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
    """The error message for a bad config, without the folder of the file."""
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


def test_a_number_in_a_key_is_a_place_in_a_list_or_a_name_in_a_mapping(write) -> None:
    config = load_config(
        Toy, write("path: [a, b]\nparts: [{path: c}]\n"), ["path.1=d", "parts.0.weight=2", "sources.7.path=e"]
    )
    assert config.path == (Path("a"), Path("d"))
    assert config.parts[0].weight == 2
    assert config.sources == {"7": Source(path=Path("e"))}
    text = message(write("path: a\n"), "sources.7.wieght=2", "sources.7.path=e")
    assert text == "command line: sources.7.wieght: is not a setting. Did you mean sources.7.weight?"
    assert message(write("path: a\n"), "7=x").startswith("command line: 7: is not a setting. Known here:")
    assert "has more than 32 parts" in message(write("path: a\n"), ".".join(10_000 * "a") + "=1")
    assert "there is no 9999" in message(write("path: [a]\n"), f"path.{5000 * '9'}=1")


def test_a_config_cannot_be_changed(write) -> None:
    config = load_config(Toy, write("path: a\n"))
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3  # type: ignore[misc]


# Mistakes


def test_an_unknown_key_is_reported_with_its_line_and_a_guess(write) -> None:
    text = message(write("path: a\n\nloss:\n  bta: 0.3\n"))
    assert text == "toy.yaml:4: loss.bta: is not a setting. Did you mean loss.beta?"
    text = message(write("path: a\nlos: {}\n"))
    assert text == "toy.yaml:2: los: is not a setting. Did you mean loss?"


def test_an_unknown_key_without_a_likeness_is_answered_with_what_exists(write) -> None:
    text = message(write("path: a\nloss: {quux: 1}\n"))
    assert text == "toy.yaml:2: loss.quux: is not a setting. Known here: beta, kind, steps."
    text = message(write("path: a\nmore: {quux: 1}\n"))
    assert text == "toy.yaml:2: more.quux: is not a setting. Known here: beta, kind, steps."


def test_keys_inside_mappings_and_lists_are_reported_too(write) -> None:
    text = message(write("path: a\nsources:\n  mine:\n    path: b\n    wieght: 2\n"))
    assert text == "toy.yaml:5: sources.mine.wieght: is not a setting. Did you mean sources.mine.weight?"
    text = message(write("path: a\nparts:\n- path: b\n- path: c\n  weight: many\n"))
    expected = "toy.yaml:5: parts.1.weight: must be a number, got 'many'. Start from 1.0."
    assert text == expected


def test_a_wrong_value_is_reported_with_one_to_start_from(write) -> None:
    text = message(write("path: a\nloss: {beta: -0.1}\n"))
    assert text == "toy.yaml:2: loss.beta: must be above 0, got -0.1. Start from 0.1."
    text = message(write("path: a\nepochs: 0\n"))
    assert text == "toy.yaml:2: epochs: must be above or equal to 1, got 0. Start from 1."
    text = message(write("path: a\nloss: {kind: max}\n"))
    assert text == "toy.yaml:2: loss.kind: must be 'mean' or 'sum', got 'max'. Start from mean."
    text = message(write("path: a\nepochs: few\n"))
    assert text == "toy.yaml:2: epochs: must be an integer, got 'few'. Start from 1."
    text = message(write("path: a\nname: A-1\n"))
    assert text == "toy.yaml:2: name: must match pattern '^[a-z]+$', got 'A-1'. Start from toy."
    text = message(write("path: a\nloss: {steps: x}\n"))
    assert text == "toy.yaml:2: loss.steps: must be an integer, got 'x'. Steps; None for all."
    text = message(write("path: a\nloss: 3\n"))
    assert text.startswith("toy.yaml:2: loss: must be a section of `key: value` lines, got 3. Write its settings, such")


def test_what_may_be_of_two_types_is_reported_once(write) -> None:
    text = message(write("path: 3\n"))
    assert text == "toy.yaml:1: path: must be a path, got 3. What is read."
    assert message(write("path: [a, 3]\n")) == "toy.yaml:1: path.1: must be a path, got 3. What is read."


def test_a_missing_key_is_reported_with_its_meaning(write) -> None:
    assert message(write("epochs: 2\n")) == "toy.yaml: path: required, but missing. Add it: What is read."
    text = message(write("path: a\nsources: {mine: {}}\n"))
    assert text == "toy.yaml:2: sources.mine.path: required, but missing. Add it to the file."
    assert message(write("")) == "toy.yaml: path: required, but missing. Add it: What is read."


def test_a_check_over_the_whole_recipe_points_at_the_file(write) -> None:
    assert message(write("path: a\nepochs: 10\n")) == "toy.yaml: more than 9 epochs over-fit. See --help."


def test_several_mistakes_are_a_line_each(write) -> None:
    text = message(write("loss:\n  bta: 0.3\n  beta: 0\nepochs: x\n"))
    assert text.splitlines() == [
        "toy.yaml: path: required, but missing. Add it: What is read.",
        "toy.yaml:2: loss.bta: is not a setting. Did you mean loss.beta?",
        "toy.yaml:3: loss.beta: must be above 0, got 0. Start from 0.1.",
        "toy.yaml:4: epochs: must be an integer, got 'x'. Start from 1.",
    ]


def test_joining_keeps_each_message_whole() -> None:
    first, second = ConfigError("a", "is wrong", "Fix it?"), ConfigError("b", "too", "Likewise")
    assert joined([first]) is first
    assert str(joined([first, second])) == "a: is wrong. Fix it?\nb: too. Likewise."
    assert str(joined([second, first])) == "b: too. Likewise.\na: is wrong. Fix it?"


def test_mistakes_on_the_command_line_say_so(write) -> None:
    path = write("path: a\nloss: {beta: 0.5}\n")
    text = message(path, "loss.bta=1")
    assert text == "command line: loss.bta: is not a setting. Did you mean loss.beta?"
    assert message(path, "loss.beta=0").startswith("command line: loss.beta: must be above 0, got 0.")
    assert message(path, "lss.beta=1") == "command line: lss: is not a setting. Did you mean loss?"
    assert message(path, "loss") == "loss: expected key=value. Write for example training.seed=1."
    assert message(path, "=3") == "=3: expected key=value. Write for example training.seed=1."
    text = message(path, "path.x.y=1")
    assert text == "path.x.y=1: there is no x to set a value in. See --help for the settings."
    assert message(path, "path=[a]", "path.3=b") == "path.3=b: there is no 3 to set. See --help for the settings."
    text = message(write("path: a\nloss: {beta: 0}\n"), "epochs=2")
    assert text.startswith("toy.yaml:2: loss.beta"), "a key that was not overridden keeps its line"


def test_a_value_that_is_no_yaml_is_taken_as_text(write) -> None:
    assert load_config(Toy, write("path: a\n"), ["path=[a"]).path == Path("[a")


def test_what_is_not_yaml_is_reported_with_its_line(write) -> None:
    text = message(write("path: a\nloss: [1\n"))
    assert text.startswith("toy.yaml:3: is not YAML: ")
    assert text.endswith('Fix that line; quote text that begins with * & ! % @ or holds ": ".')
    text = message(write("- a\n- b\n"))
    assert text == "toy.yaml: expected settings as `key: value`, found a list. Write one setting per line."
    assert message(write("text\n")).startswith("toy.yaml: expected settings as `key: value`, found a single value.")


def test_a_key_given_twice_is_refused(write) -> None:
    text = message(write("path: a\nloss:\n  beta: 1\n  kind: sum\n  beta: 2\n"))
    assert text == "toy.yaml:5: loss.beta: is given twice (first in line 3). Keep one of them."


@pytest.mark.parametrize("key", ["<<", "<path>", "<section>", "1", "true", "~"])
def test_a_key_that_is_no_setting_is_named_as_it_is_written(write, key: str) -> None:
    assert message(write(f"path: a\n{key}: {{b: 1}}\n")).startswith(f"toy.yaml:2: {key}: is not a setting.")


def test_an_empty_section_and_a_tab_say_what_to_do(write) -> None:
    text = message(write("path: a\nloss:\n"))
    assert text == (
        "toy.yaml:2: loss: must be a section of `key: value` lines, got null. "
        "Write its settings under it, or remove the line."
    )
    assert message(write("path: a\nloss:\n\tbeta: 1\n")).endswith("Replace the tab by spaces.")


def test_a_setting_of_another_library_is_answered_with_ours(write) -> None:
    assert message(write("path: a\nnum_train_epochs: 1\n")).endswith(
        "num_train_epochs: is not a setting. Did you mean epochs?"
    )


@pytest.mark.parametrize("override", [".=1", "loss.=1", ".loss=1", "loss..beta=1"])
def test_an_override_with_an_empty_name_is_refused(write, override: str) -> None:
    with pytest.raises(ConfigError, match="has an empty name in its key"):
        load_config(Toy, write("path: a\n"), [override])


def test_aliases_and_tags_are_refused(write) -> None:
    text = message(write("path: &here a\nname: *here\n"))
    assert text == (
        "toy.yaml:2: name: aliases (*here) are not supported. "
        'Write the value out; if it is a file pattern, quote it: "*here".'
    )
    text = message(write("path: !!python/object/apply:os.getcwd []\n"))
    assert text == "toy.yaml:1: path: tags (!!python/object/apply:os.getcwd) are not supported. Write a plain value."


def test_a_list_or_mapping_on_the_command_line_is_as_strict_as_a_file(write) -> None:
    path = write("path: a\n")
    assert message(path, "loss={beta: 1, beta: 2}") == "command line: loss.beta: is given twice. Keep one of them."
    assert "tags (!!int) are not supported" in message(path, "loss={beta: !!int 3}")
    assert "aliases (*b) are not supported" in message(path, "path=[a, *b]")
    assert "is nested more than 32 deep" in message(path, f"path={100 * '['}a{100 * ']'}")
    assert load_config(Toy, path, ["path=*.jsonl"]).path == Path("*.jsonl"), "a file pattern is text"
    assert load_config(Toy, path, ['path="a: b"']).path == Path("a: b")


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    text = message(tmp_path / "none.yaml")
    assert text == "none.yaml: cannot be read (No such file or directory). Name a YAML file first, then key=value."


# Strict types


class Strict(Recipe):
    count: int = 1
    maybe: int | None = None
    ratio: float = 0.5
    flag: bool = False
    name: str = ""
    names: tuple[Literal["a", "b"], ...] = ()
    targets: Literal["all"] | tuple[str, ...] = "all"
    counts: tuple[int, ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)
    read: Path | tuple[Path, ...] = Path("x")
    made: dict[str, Path] = Field(default_factory=dict)
    seed: int = 0
    threads: int | None = None


def strictly(write, text: str, *overrides: str) -> str:  # type: ignore[no-untyped-def]
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Strict, path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("count: yes", "must be an integer, got 'yes'"),
        ("count: on", "must be an integer, got 'on'"),
        ("count: true", "must be an integer, got true"),
        ("count: 1.0", "must be an integer, got 1.0"),
        ("count: 1e3", "must be an integer, got 1000.0"),
        ("count: 010", "must be an integer, got '010'"),
        ("count: 1:30", "must be an integer, got '1:30'"),
        ("count: 1_000", "must be an integer, got '1_000'"),
        ("count: 0b11", "must be an integer, got '0b11'"),
        ("count: '1'", "must be an integer, got '1'. Write it without quotes"),
        ("count: 2024-13-45", "must be an integer, got '2024-13-45'"),
        ("count: 2024-01-02", "must be an integer, got '2024-01-02'"),
        ("count:", "must be an integer, got null"),
        ("count: [1]", "must be an integer, got [1]"),
        ("count: 1" + 25 * "0", "must be from -9223372036854775807 to 9223372036854775807, got 1000"),
        ("maybe: true", "must be an integer, got true"),
        ("maybe: 1.0", "must be an integer, got 1.0"),
        ("ratio: on", "must be a number, got 'on'"),
        ("ratio: true", "must be a number, got true"),
        ("ratio: '0.5'", "must be a number, got '0.5'. Write it without quotes"),
        ("ratio: .inf", "must be a finite number, got inf"),
        ("ratio: -.inf", "must be a finite number, got -inf"),
        ("ratio: .nan", "must be a finite number, got nan"),
        ("ratio: 1e400", "must be a finite number, got inf"),
        ("flag: 1", "must be true or false, got 1"),
        ("flag: on", "must be true or false, got 'on'"),
        ("flag: no", "must be true or false, got 'no'"),
        ("flag: 'true'", "must be true or false, got 'true'. Write it without quotes"),
        ("name: 3", "must be text, got 3. Write it in quotes"),
        ("name: true", "must be text, got true"),
        ("counts: [1, true]", "must be an integer, got true"),
        ("weights: {a: on}", "must be a number, got 'on'"),
        ("weights: {a: .inf}", "must be a finite number, got inf"),
        ("seed: -1", "must be from 0 to 4294967295, got -1"),
        ("seed: 4294967296", "must be from 0 to 4294967295, got 4294967296"),
        ("threads: 1000000000", "must be from 1 to 4096, got 1000000000"),
    ],
)
def test_a_value_of_another_type_or_beyond_all_bounds_is_refused(write, line: str, expected: str) -> None:
    key, _, value = line.partition(":")
    text = strictly(write, f"# settings\n{line}\n")
    assert text.startswith(f"toy.yaml:2: {key}")
    assert expected in text
    assert expected in strictly(write, "", f"{key}={value.strip()}")


def test_numbers_booleans_and_texts_of_yaml_1_2_are_read(write) -> None:
    text = "count: 0x1F\nmaybe: 0o17\nratio: 3\nflag: True\nname: on\ncounts: [-1, +2, 0]\nweights: {on: 1e-5, 1: .5}"
    config = load_config(Strict, write(text))
    assert (config.count, config.maybe, config.ratio, config.flag, config.name) == (31, 15, 3.0, True, "on")
    assert config.counts == (-1, 2, 0)
    assert config.weights == {"on": 1e-5, "1": 0.5}
    assert load_config(Strict, write("name: 2024-13-45\n")).name == "2024-13-45", "a date is text"
    assert load_config(Strict, write("name: 010\n"), ["seed=4294967295"]).name == "010"


def test_one_value_where_a_list_is_expected_is_a_list_of_one(write) -> None:
    config = load_config(Strict, write("names: a\ntargets: q_proj\ncounts: 3\nread: rows.jsonl\n"))
    assert config.names == ("a",)
    assert config.targets == ("q_proj",)
    assert config.counts == (3,)
    assert config.read == Path("rows.jsonl"), "what may be one or several stays as it is written"
    assert load_config(Strict, write("targets: all\n"), ["names=b"]).targets == "all"
    assert "toy.yaml:1: names.0: must be 'a' or 'b', got 'c'" in strictly(write, "names: c\n")
    assert "counts.0: must be an integer, got 'x'" in strictly(write, "counts: x\n")
    assert "names: must be a list, got null" in strictly(write, "names:\n")
    assert "count: must be an integer, got [3]" in strictly(write, "count: [3]\n")


@pytest.mark.parametrize(
    "value, expected",
    [
        ("''", "must not be empty"),
        ("'  '", "must not be empty"),
        ('"a\\nb"', "a path has no control characters"),
        ('"a\\0b"', "holds a NUL character"),
        (300 * "a", "has a name of 300 bytes; file systems allow 255 in a name"),
        (200 * "\u00e9", "has a name of 400 bytes"),
        ("/".join(2100 * "a"), "bytes; file systems allow 255 in a name and 4095 in all"),
        ("~no-such-user/x", "begins with ~no-such-user, and there is no such user"),
    ],
)
def test_paths_that_no_file_system_has_are_refused_by_name(write, value: str, expected: str) -> None:
    text = strictly(write, f"name: x\nread: {value}\n")
    assert text.startswith("toy.yaml:2: read: ")
    assert expected in text
    assert strictly(write, f"read: [a, {value}]\n").startswith("toy.yaml:1: read.1: ")
    assert strictly(write, f"made: {{here: {value}}}\n").startswith("toy.yaml:1: made.here: ")
    if value[:1] in "'\"":
        assert strictly(write, "{}", f"read={value}").startswith("command line: read: ")


def test_a_tilde_is_the_home_folder(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    config = load_config(Strict, write("read: ~/rows.jsonl\nname: ~/x\n"), ["made.here=~/out"])
    assert config.read == Path("/home/ann/rows.jsonl")
    assert config.made == {"here": Path("/home/ann/out")}
    assert config.name == "~/x", "only a path is expanded"


def test_an_empty_list_where_one_is_required_is_refused_by_name(write) -> None:
    assert message(write("path: []\n")) == "toy.yaml:1: path: must not be empty. What is read."
    assert message(write("path: a\n"), "path=[]") == "command line: path: must not be empty. What is read."


def test_an_unknown_key_that_another_section_has_is_reported_where(write) -> None:
    text = message(write("path: a\nbeta: 0.1\n"))
    assert text == "toy.yaml:2: beta: is not a setting. Did you mean loss.beta or more.beta?"
    text = message(write("path: a\nkind: sum\n"))
    assert "is not a setting" in text  # loss.kind or more.kind
    with pytest.raises(ConfigError, match=r"Did you mean loss\.beta\?"):
        load_config(OneLoss, write("beta: 0.1\n"))


class OneLoss(Recipe):
    loss: Loss = Loss()


# The command line


def test_help_tells_every_setting_with_type_default_and_meaning() -> None:
    lines = help_text(Toy, "toy.py").splitlines()
    assert lines[0] == "usage: toy.py CONFIG.yaml [key=value ...]"
    assert "A recipe for tests." in lines
    place = lines.index("  loss.beta (float, default 0.1)")
    assert lines[place + 1] == "      Pull towards the reference. Start from 0.1."
    text = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    assert {"path", "loss.beta", "loss.kind", "more.beta", "name", "epochs"} <= text
    assert {"sources.<name>.path", "sources.<name>.weight", "parts.<number>.path"} <= text


def test_help_of_one_section_or_setting_shows_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    for topic, expected in (
        ("loss", {"loss.beta", "loss.kind", "loss.steps"}),
        ("loss.beta", {"loss.beta"}),
        ("name", {"name"}),
    ):
        lines = help_text(Toy, "toy.py", topic).splitlines()
        assert {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "} == expected
    with pytest.raises(SystemExit) as left:
        config_from_argv(Toy, ["--help", "lose"])
    assert left.value.code == 2
    assert "--help lose: there is no setting or section of this name. Did you mean loss?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        config_from_argv(Toy, ["--help", "loss"])
    assert left.value.code == 0
    assert "name (" not in capsys.readouterr().out


class Cited(Recipe):
    """Made for tests, as in Tulu 3."""

    beta: float = 0.1
    """Llama 3, section 4.1.4: 0.1."""
    kind: Literal["sum", "mean"] | None = None
    paths: tuple[Path, ...] = ()
    levels: dict[str, int] = Field(default_factory=dict)


def test_help_explains_the_papers_that_it_cites_and_no_others() -> None:
    text = help_text(Cited, "cited.py")
    assert "Llama 3: The Llama 3 Herd of Models. Llama Team, 2024. arXiv:2407.21783." in text
    assert "Lambert et al., 2024. arXiv:2411.15124." in text
    assert "LoRA" not in text
    assert "cited above" not in help_text(Toy, "toy.py")


def test_help_writes_types_and_defaults_as_a_config_file_has_them() -> None:
    lines = help_text(Cited, "cited.py").splitlines()
    assert "  kind (sum | mean | null, default null)" in lines
    assert "  paths (list[path], default [])" in lines
    assert "  levels (mapping[text: int], default {})" in lines


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
    assert left.value.code == 2
    assert capsys.readouterr().err == "a: is empty. Fill it.\n"


def left_by(run, write, *words: str) -> int:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as left:
        main(Toy, run, [str(write("path: a\n")), *words])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize(
    "error, code, text",
    [
        (ConfigError("a", "b", "c"), 2, "a: b. c.\n"),
        (RowError("rows.jsonl:3", "b", "c"), 2, "rows.jsonl:3: b. c.\n"),
        (CheckpointError("a", "b", "c"), 1, "a: b. c.\n"),
        (StageError("a", "b", "c"), 1, "a: b. c.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), 1, "/out/x: the disk is full. Free some space"),
        (MemoryError(), 1, "memory: there is not enough: MemoryError. Lower data.token_budget"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_the_exit_code_tells_a_users_input_from_the_rest(
    write,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def fail(config: Toy) -> None:
        raise error

    assert left_by(fail, write) == code
    said = capsys.readouterr().err
    assert said.startswith(text)
    assert "Traceback" not in said
    monkeypatch.setenv("ALIGN_DEBUG", "1")
    assert left_by(fail, write) == code
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert text in said


def test_options_with_dashes_are_settings_too(write) -> None:
    path = str(write("path: a\n"))
    argv = [path, "--loss.beta", "0.2", "--loss.kind=sum", "epochs=2", "--path", "b"]
    config = config_from_argv(Toy, argv)
    assert config.loss == Loss(beta=0.2, kind="sum")
    assert (config.epochs, config.path) == (2, Path("b"))
    assert config_from_argv(Toy, ["--epochs", "3", path]).epochs == 3, "in any order"


@pytest.mark.parametrize(
    "words, text",
    [
        (["--epochs"], "--epochs: has no value. Write --epochs=value; a switch has a value too: --epochs=true or"),
        (["--epochs", "--loss.beta=1"], "--epochs: has no value."),
        (["other"], "other: expected key=value. Write for example training.seed=1."),
        (["--kind", "sum"], "command line: kind: is not a setting. Did you mean loss.kind or more.kind?"),
        (["--loss.be-ta=1"], "command line: loss.be-ta: is not a setting. Did you mean loss.beta?"),
    ],
)
def test_a_bad_command_line_is_answered_with_2(
    write, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    with pytest.raises(SystemExit) as left:
        config_from_argv(Toy, [str(write("path: a\n")), *words])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(text)


def piped_to_nothing(code: str, *words: str) -> tuple[int, str]:
    """Exit code and standard error of Python code whose standard output's reader has left before anything is said."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run([sys.executable, "-c", code, *words], stdout=out, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_ends_a_recipe_without_a_traceback(write) -> None:
    toy = "from align.config import *\nclass Toy(Recipe):\n  path: str\ndef run(toy): {}\nmain(Toy, run)"
    path = str(write("path: a\n"))
    assert piped_to_nothing(toy.format("pass"), "--help") == (0, "")
    assert piped_to_nothing(toy.format("print('x' * 100_000)"), path) == (141, "")
    assert piped_to_nothing(toy.format("print('x')"), path) == (141, ""), "said only on leaving"


def test_another_broken_pipe_is_no_reader_that_left(write, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: Toy) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert left_by(fail, write) == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_what_only_we_can_have_broken_keeps_its_traceback(write) -> None:
    def fail(config: Toy) -> None:
        raise AssertionError("broken")

    with pytest.raises(AssertionError, match="broken"):
        main(Toy, fail, [str(write("path: a\n"))])


@pytest.mark.slow
def test_reading_a_config_does_not_import_torch() -> None:
    code = "import sys, align.config, align.settings; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_names_of_the_hub_in_a_config_follow_the_one_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of data are none, in any form, nor what is below a folder that is here, nor a text with a space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    files = [f"me/rows{ending}" for ending in (".jsonl", ".ndjson", ".tsv", ".csv.gz", ".arrow", ".yml", ".JSONL")]
    paths = ["me/model", "rows/missing", "my models/llama", "me/a+b", "a/b/c", "/me/model", *files]
    toy = Toy.model_validate(
        {"path": tuple(map(Path, paths)), "sources": {"one": {"path": Path("you/model-1.5")}}, "name": "toy"}
    )
    assert list(_hub_names(toy)) == ["me/model", "you/model-1.5"]
