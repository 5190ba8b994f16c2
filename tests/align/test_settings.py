"""The shared sections: defaults that the paper gives, and the paths that rounds go by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from align.config import Section, help_text, load_config
from align.errors import ConfigError
from align.harmless import changes_no_result
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
    RewardConfig,
    SamplingConfig,
    SamplingServerConfig,
    SFTConfig,
    TrainingConfig,
    TreeDataConfig,
    paths_of,
)
from recipes.sft import SFTRecipe

CITED = re.compile(r"Llama [23](?:, sections? [\d.]+(?: and [\d.]+)*)?: (?P<values>\d.*?)(?:\. |\.?$)")
"""A citation with the paper's values: `Llama 2: 0.03.`, `Llama 3, sections 4.1.3 and 4.1.4: 1e-5 for ...`."""


def test_a_default_is_among_the_values_that_its_description_cites() -> None:
    checked = {}
    for section in (DPOConfig, LoRAConfig, RewardConfig, SamplingConfig, SFTConfig, TrainingConfig, TreeDataConfig):
        for name, field in section.model_fields.items():
            cited = CITED.search(" ".join((field.description or "").split()))
            if cited:
                values = [float(value) for value in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", cited["values"])]
                assert field.default in values, f"{section.__name__}.{name}: {field.default}, cited: {cited[0]}"
                checked[name] = field.default
    assert {"beta", "nll_coefficient", "learning_rate", "warmup_ratio", "weight_decay"} <= checked.keys(), checked


def test_nothing_is_pushed_unless_asked() -> None:
    hub = HubConfig(repo="me/model")
    assert not hub.push
    assert hub.private
    for repo in ("model", "a/b/c", "me/ model", "https://x/y", "../..", "./x", "me/.hidden"):
        with pytest.raises(ValidationError, match="should match pattern"):
            HubConfig(repo=repo)
    with pytest.raises(ValidationError, match="leave branch out and set update_main: true"):
        HubConfig(repo="me/model", branch="main")
    for name in ("a b", "../x", "-x", "a/b"):
        with pytest.raises(ValidationError, match="should match pattern"):
            HubConfig(repo="me/model", tag=name)


@pytest.mark.parametrize(
    "section",
    [
        DPOConfig,
        HubConfig,
        LoRAConfig,
        ModelConfig,
        PreferenceDataConfig,
        RewardConfig,
        SamplingConfig,
        SamplingServerConfig,
        TrainingConfig,
        TreeDataConfig,
    ],
)
def test_every_setting_has_a_line_of_meaning(section: type[Section]) -> None:
    silent = [name for name, field in section.model_fields.items() if not field.description]
    assert silent == []
    assert all(name in help_text(section, "x") for name in section.model_fields)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, r"dpo.label_smoothing is 0.1, which the loss ipo does not read"),
        ({"loss": "simpo"}, r"the loss simpo requires dpo.simpo_gamma, which is missing"),
        ({"simpo_gamma": 1.0}, r"dpo.simpo_gamma is 1.0, which the loss sigmoid does not read"),
        ({"loss": "simpo", "simpo_gamma": 1, "reference_cache": "x"}, r"the loss simpo has no reference"),
        ({"label_smoothing": 0.5}, r"less than 0.5"),
        ({"loss": "hinge"}, r"'sigmoid', 'ipo', 'length_normalized' or 'simpo'"),
    ],
)
def test_a_value_that_the_loss_would_not_read_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DPOConfig(**values)


def test_every_loss_has_settings_that_load() -> None:
    DPOConfig(loss="length_normalized", label_smoothing=0.1, beta=5)
    DPOConfig(loss="ipo", beta=0.5)
    assert DPOConfig(**DPOConfig(loss="simpo", simpo_gamma=0, beta=2).model_dump()).simpo_gamma == 0


def test_margins_are_not_negative_and_name_levels_that_are_kept() -> None:
    from recipes.reward import RewardRecipe

    with pytest.raises(ValidationError, match="the margin of 'better' must be 0 or above, got -1"):
        RewardConfig(margins={"better": -1})
    values = {"model": {"path": "m"}, "data": {"path": "d"}, "training": {"output_dir": "o"}}
    RewardRecipe(**values, reward={"margins": {"better": 0.5}})
    with pytest.raises(
        ValidationError, match=r"reward.margins has 'slightly better', and data.levels keeps these only"
    ):
        RewardRecipe(**values, reward={"margins": {"slightly better": 0.1}})


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("learning_rate", "1e400", "must be a finite number, got inf"),
        ("learning_rate", "3", "must be below or equal to 1, got 3"),
        ("weight_decay", ".inf", "must be a finite number, got inf"),
        ("max_grad_norm", ".nan", "must be a finite number, got nan"),
        ("epochs", ".inf", "must be a finite number, got inf"),
        ("epochs", "1e9", "must be below or equal to 10000, got 1000000000.0"),
        ("batch_size", "1" + 30 * "0", "must be from -9223372036854775807 to 9223372036854775807, got 1000"),
        ("batch_size", "2000000", "must be below or equal to 1000000, got 2000000"),
        ("batch_size", "true", "must be an integer, got true"),
        ("max_steps", "0", "must be above 0, got 0"),
        ("max_steps", "1.0", "must be an integer, got 1.0"),
        ("threads", "1000000000", "must be from 1 to 4096, got 1000000000"),
        ("seed", "-1", "must be from 0 to 4294967295, got -1"),
        ("seed", str(2**70), "must be from 0 to 4294967295, got 11805"),
        ("checks", "1", "must be true or false, got 1"),
        ("precision", "bf32", "must be 'auto', 'fp32' or 'bf16', got 'bf32'"),
        ("report_to", "mlflows", "must be 'azure_ml', 'clearml', 'codecarbon',"),
        ("output_dir", "", "must be a path, got null"),
        ("output_dir", "''", "must not be empty"),
        ("output_dir", "[a]", "must be a path, got ['a']"),
    ],
)
def test_what_no_training_can_mean_is_refused_before_anything_starts(
    tmp_path: Path, key: str, value: str, expected: str
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text("model: {path: m}\ndata: {path: d}\ntraining:\n  output_dir: o\n")
    with pytest.raises(ConfigError) as caught:
        load_config(SFTRecipe, config, [f"training.{key}={value}"])
    assert str(caught.value).startswith(f"command line: training.{key}")
    assert expected in str(caught.value)


def test_an_empty_list_of_rows_is_refused_by_name(tmp_path: Path) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text("model: {path: m}\ndata: {path: []}\ntraining: {output_dir: o}\n")
    with pytest.raises(ConfigError, match=r"sft\.yaml:2: data\.path: names no file; give at least one"):
        load_config(SFTRecipe, config)


def test_a_tracker_that_is_missing_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text("model: {path: m}\ndata: {path: d}\ntraining:\n  output_dir: o\n  report_to: wandb\n")
    monkeypatch.setattr("align.trackers.is_installed", lambda name: name != "wandb")
    with pytest.raises(ConfigError) as caught:
        load_config(SFTRecipe, config)
    assert str(caught.value) == (
        f"{config}:5: training.report_to: the tracker wandb is not installed. "
        "Install the extra: pip install 'align-post-training[wandb]'."
    )
    monkeypatch.setattr("align.trackers.is_installed", lambda name: True)
    assert load_config(SFTRecipe, config).training.report_to == ("wandb",)


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


def test_marked_paths_are_found_wherever_they_are() -> None:
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


@pytest.mark.parametrize(
    "lora, found",
    [
        ({"targets": "q_proj"}, ("q_proj",)),
        ({"targets": "mlp.up_proj"}, ("mlp.up_proj",)),
        ({"targets": "all-linear"}, "all-linear"),
        ({"targets": r".*\.[qv]_proj"}, r".*\.[qv]_proj"),
    ],
    ids=str,
)
def test_a_single_name_of_a_layer_is_a_list_and_the_rest_a_pattern(lora: dict[str, str], found: object) -> None:
    assert LoRAConfig(**lora).targets == found
    assert LoRAConfig(exclude_modules=lora["targets"]).exclude_modules in (found, ("all-linear",), "all-linear")


@pytest.mark.parametrize(
    "settings, message",
    [
        ("targets=(q_proj", r"model\.lora\.targets: is not a regular expression \(missing \)"),
        ("layers_to_transform=[1,1]", r"model\.lora\.layers_to_transform: names layers by their numbers .*\[1, 1\]"),
        ("layers_to_transform=-1", r"model\.lora\.layers_to_transform: names layers by their numbers"),
        ("layers_to_transform=1 first_layer=1", r"first_layer and layers_to_transform both choose decoder layers"),
        ("targets=.*_proj first_layer=1", r"targets is a regular expression, which names the decoder layers itself"),
        ("dora=true", r"model\.lora\.dora: is not a setting\. Did you mean model\.lora\.use_dora\?"),
    ],
)
def test_layers_of_an_adapter_are_checked_before_anything_is_loaded(
    settings: str, message: str, tmp_path: Path
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text("model: {path: m, lora: {}}\ndata: {path: a.jsonl}\ntraining: {output_dir: out}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(SFTRecipe, config, [f"model.lora.{one}" for one in settings.split()])


SERVER = {"base_urls": ("http://a:8000/v1",)}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"backend": "server"}, r"requires the section sampling\.server, which is missing"),
        ({"server": SERVER}, r"sampling\.server is given, which the backend local does not read"),
        ({"backend": "server", "server": {"base_urls": ()}}, r"at least 1 item"),
        (
            {"backend": "server", "server": {"base_urls": ("node1:8000",)}},
            r"'node1:8000' is not an address such as http",
        ),
        ({"backend": "server", "server": {"base_urls": ("http://me:key@a/v1",)}}, r"is not an address"),
        ({"backend": "server", "server": {"base_urls": ("http://a/v1", "http://a/")}}, r"names http://a/v1 twice"),
    ],
)
def test_a_backend_that_contradicts_its_settings_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SamplingConfig(**values)


def test_keys_of_results_have_what_completions_depend_on() -> None:
    local = SamplingConfig(temperature=0.7, batch_size=3, threads=2)
    before = {"temperature": 0.7, "top_p": 1.0, "max_completion_tokens": 256, "dtype": "auto"}
    assert local.result_settings() == before, "keys from before there were backends stay the same"
    server = {"base_urls": ("http://a/v1", "http://b/v1"), "model": "m", "concurrency": 3, "api_key_variable": "KEY"}
    decides = {"model": "m", "max_model_len": None}
    expected = {**before, "temperature": 1.0, "backend": "server", "server": decides}
    del expected["dtype"]
    assert SamplingConfig(backend="server", server=server, dtype="float32").result_settings() == expected
    assert SamplingServerConfig.model_fields.keys() - decides == {
        name for name in SamplingServerConfig.model_fields if changes_no_result(f"judge.sampling.server.{name}")
    }
