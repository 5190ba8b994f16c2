"""The shared sections: defaults that the paper gives, and the paths that rounds go by."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from align.config import Section, help_text
from align.settings import (
    INPUT,
    OUTPUT,
    DPOConfig,
    HubConfig,
    InputPath,
    LoRAConfig,
    ModelConfig,
    OutputPath,
    PreferenceDataConfig,
    SamplingConfig,
    SFTConfig,
    TrainingConfig,
    TreeDataConfig,
    paths_of,
)


def test_the_papers_values_are_the_defaults() -> None:
    dpo = DPOConfig()
    assert (dpo.beta, dpo.nll_coefficient, dpo.mask_format_tokens) == (0.1, 0.2, True)
    assert dpo.nll_normalization == "sequence_mean"
    assert TrainingConfig(output_dir=Path("x")).learning_rate == 1e-5
    assert PreferenceDataConfig(path=Path("x")).levels == ("significantly better", "better")
    assert SFTConfig().train_on == "final"


def test_nothing_is_pushed_unless_asked() -> None:
    hub = HubConfig(repo="me/model")
    assert not hub.push
    assert hub.private
    for repo in ("model", "a/b/c", "me/ model", "https://x/y"):
        with pytest.raises(ValidationError, match="should match pattern"):
            HubConfig(repo=repo)


@pytest.mark.parametrize(
    "section",
    [
        DPOConfig,
        HubConfig,
        LoRAConfig,
        ModelConfig,
        PreferenceDataConfig,
        SamplingConfig,
        TrainingConfig,
        TreeDataConfig,
    ],
)
def test_every_setting_has_a_line_of_meaning(section: type[Section]) -> None:
    silent = [name for name, field in section.model_fields.items() if not field.description]
    assert silent == []
    assert all(name in help_text(section, "x") for name in section.model_fields)


class Inner(Section):
    read: InputPath | tuple[InputPath, ...]
    made: OutputPath | None = None
    name: str = ""


class Outer(Section):
    inner: Inner
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)
    by_name: dict[str, InputPath] = Field(default_factory=dict)
    plain: Path = Path("not-marked")
    out: OutputPath = Path("out")


def test_marked_paths_are_found_wherever_they_stand() -> None:
    one = Inner(read=Path("a"))
    many = Inner(read=(Path("b"), Path("c")), made=Path("d"))
    config = Outer(inner=one, maybe=many, several=(one,), named={"x": many}, by_name={"y": Path("e")})
    assert paths_of(config, INPUT) == {
        "inner.read": Path("a"),
        "maybe.read.0": Path("b"),
        "maybe.read.1": Path("c"),
        "several.0.read": Path("a"),
        "named.x.read.0": Path("b"),
        "named.x.read.1": Path("c"),
        "by_name.y": Path("e"),
    }
    assert paths_of(config, OUTPUT) == {"maybe.made": Path("d"), "named.x.made": Path("d"), "out": Path("out")}


def test_paths_of_the_real_sections() -> None:
    assert paths_of(ModelConfig(path=Path("m")), INPUT) == {"path": Path("m")}
    data = TreeDataConfig(path=(Path("a"), Path("b")))
    assert paths_of(data, INPUT) == {"path.0": Path("a"), "path.1": Path("b")}
    training = TrainingConfig(output_dir=Path("o"))
    assert paths_of(training, INPUT) == {}
    assert paths_of(training, OUTPUT) == {"output_dir": Path("o")}
