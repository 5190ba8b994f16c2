"""What a new user gets wrong, in every recipe: one message of where, what and how, an exit code, and no traceback.

The Hub is a server on this machine that answers with the real Hub's status codes and headers (tests/fake_hub.py), and
`huggingface_hub` and `datasets` are the real ones.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from align.config import Recipe, main
from tests.fake_hub import GRANTED, TOKEN, FakeHub, Repository, pointed_at, serving

RECIPES = Path(__file__).parents[2] / "recipes"
ROWS = "".join(json.dumps({"prompt": f"{n} + 2?", "completion": str(n + 2)}) + "\n" for n in range(4))
PAIRS = "".join(json.dumps({"prompt": f"{n} + 2?", "chosen": str(n + 2), "rejected": "x"}) + "\n" for n in range(4))
CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: a.jsonl}, {split: test, path: a.jsonl}]
- config_name: other
  data_files: a.jsonl
---
"""
NOWHERE = "http://127.0.0.1:9"
"""Nothing listens on the discard port."""


class Answer(NamedTuple):
    code: int
    message: str


def module_of(name: str) -> Any:
    """A recipe as a module, as rounds import it."""
    known = f"_user_errors_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, RECIPES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture
def answer(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs a recipe that must fail, with a config that works but for the settings given. Paths of the test are T."""
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    model = {"path": str(tiny_checkpoint)}
    training = {"output_dir": str(tmp_path / "out"), "batch_size": 2, "max_steps": 1}
    train = {"model": model, "data": {"path": str(tmp_path / "pairs.jsonl")}, "training": training}
    output = {"output_dir": str(tmp_path / "out")}
    configs: dict[str, dict[str, Any]] = {
        "sft": train | {"data": {"path": str(tmp_path / "rows.jsonl")}},
        "dpo": train,
        "reward": train,
        "rejection_sample": {"model": model, "prompts": str(tmp_path / "rows.jsonl"), "reward_model": model, **output},
        "run_eval": {"model": model, "factuality": {"questions": str(tmp_path / "rows.jsonl")}, **output},
        "merge": {"adapter": str(tmp_path / "adapter"), **output},
        "average": {"checkpoints": [str(tiny_checkpoint)], **output},
        "publish": {"checkpoint": str(tiny_checkpoint), "hub": {"repo": "me/x"}},
        "build_data": {
            "knowledge_probe": {"questions": str(tmp_path / "rows.jsonl"), "model": str(tiny_checkpoint)},
            "output": str(tmp_path / "out"),
        },
    }

    def run(name: str, *overrides: str) -> Answer:
        module = module_of(name)
        recipe = next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Recipe) and value.__module__ == module.__name__
        )
        config = tmp_path / f"{name}.yaml"
        config.write_text(json.dumps(configs[name]))
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(recipe, module.run, [str(config), *(override.replace("T/", f"{tmp_path}/") for override in overrides)])
        said = capsys.readouterr().err.replace(str(tmp_path), "T").replace(str(tiny_checkpoint), "TINY")
        assert "Traceback" not in said
        assert isinstance(left.value.code, int)
        return Answer(left.value.code, said.strip().splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def served(tiny_checkpoint: Path) -> Iterator[FakeHub]:
    hub = FakeHub()
    for name in ("public", "gated", "private", "disabled", "busy", "down"):
        hub.add_model(f"me/{name}", tiny_checkpoint, name)
        hub.datasets[f"me/{name}"] = Repository({"train.jsonl": ROWS.encode()}, name)
    hub.datasets["me/configs"] = Repository({"README.md": CARD.encode(), "a.jsonl": ROWS.encode()})
    hub.datasets["me/script"] = Repository({"script.py": b""})
    with serving(hub):
        yield hub


@pytest.fixture
def hub(served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    from align.records import tables

    tables._cached_builder.cache_clear()
    served.requests.clear()
    pointed_at(served.endpoint, tmp_path / "cache", monkeypatch)
    return served


LOG_IN = "log in: hf auth login, or set HF_TOKEN."
NOT_LOGGED_IN = "is gated on the Hub, and you are not logged in. Accept its licence on"
NO_ACCESS = "is gated on the Hub, and the account of your token has no access to it. Accept its licence on"
NO_MODEL = "there is no model"
MISSING = "on the Hub, or it is private."


@pytest.mark.parametrize(
    "name, token, code, expected",
    [
        ("gated", "", 2, f"me/gated {NOT_LOGGED_IN} HUB/me/gated, then {LOG_IN}"),
        ("gated", TOKEN, 2, f"me/gated {NO_ACCESS} HUB/me/gated with that account"),
        ("publik", "", 2, f"there is no folder me/publik, and {NO_MODEL} me/publik {MISSING} Did you mean me/pub"),
        ("publik", TOKEN, 2, f"there is no folder me/publik, and {NO_MODEL} me/publik {MISSING} Did you mean me/pub"),
        ("private", "", 2, f"{NO_MODEL} me/private {MISSING} Check the name; for a private repository, {LOG_IN}"),
        ("public", "hf_stale", 2, f"the Hub does not accept the access token of this machine. Again {LOG_IN}"),
        ("disabled", "", 2, "the Hub has disabled the access to me/disabled."),
        ("busy", "", 1, "the Hub has received too many requests from here (status 429). Wait some minutes"),
        ("down", "", 1, "the Hub failed to answer (status 503). Start again later, or name a local folder"),
    ],
)  # fmt: skip
def test_a_model_that_the_hub_does_not_give_is_one_message(
    name: str, token: str, code: int, expected: str, hub: FakeHub, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    found = answer("sft", f"model.path=me/{name}")
    assert found.code == code
    assert found.message.startswith("model.path: ")
    assert expected.replace("HUB", hub.endpoint) in found.message
    assert len(hub.requests) < 12, "tried once"
    assert not any("safetensors" in request for request in hub.requests), "before any weights"


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, setting, where",
    [
        ("dpo", "model.path=", "model.path"),
        ("reward", "model.path=", "model.path"),
        ("rejection_sample", "model.path=", "model.path"),
        ("rejection_sample", "reward_model.path=", "reward_model.path"),
        ("run_eval", "model.path=", "model.path"),
        ("merge", "adapter=", "adapter"),
        ("average", "checkpoints=", "checkpoints"),
        ("build_data", "knowledge_probe.model=", "knowledge_probe.model"),
        ("build_data", "knowledge_probe.judge=model knowledge_probe.judge_model=", "knowledge_probe.judge_model"),
    ],
)
def test_every_recipe_names_the_setting_of_a_model_before_anything_is_loaded(
    recipe: str, setting: str, where: str, hub: FakeHub, answer: Any
) -> None:
    *more, last = setting.split()
    assert answer(recipe, *more, f"{last}me/gated").message.startswith(f"{where}: me/gated is gated on the Hub")
    found = answer(recipe, *more, f"{last}me/publik")
    assert (found.code, "Did you mean me/public?" in found.message) == (2, True)
    found = answer(recipe, *more, f"{last}T/rows")
    assert found == (
        2,
        f"{where}: there is no folder T/rows. Name a checkpoint folder that exists, or owner/name on the Hub.",
    )
    found = answer(recipe, *more, f"{last}T/rows.jsonl")
    assert found == (
        2,
        f"{where}: T/rows.jsonl is a file, and a folder is expected. Name the folder that the file is in.",
    )


@pytest.mark.parametrize(
    "path, expected",
    [
        ("https://huggingface.co/me/public", "Did you mean model.path=me/public?"),
        ("https://hf.co/me/public/tree/v1", "Did you mean model.path=me/public model.revision=v1?"),
        ("hf://me/public", "Did you mean model.path=me/public?"),
        ("me/public@v1", "Did you mean model.path=me/public model.revision=v1?"),
        ("Llama-3.1-8B", "there is no folder Llama-3.1-8B. Name a checkpoint folder that exists, or owner/name on the"),
        ("''", "model.path: must not be empty."),
    ],
)
def test_an_address_of_the_hub_is_answered_with_its_name(path: str, expected: str, answer: Any) -> None:
    found = answer("sft", f"model.path={path}")
    assert found.code == 2
    assert expected in found.message


def test_a_cache_that_cannot_be_written_to_and_an_impossible_token_are_named(
    hub: FakeHub, answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/proc/hub")
    found = answer("sft", "model.path=me/public")
    assert found.code == 1
    assert "the cache of the Hub cannot be written to (No such file or directory). Set HF_HOME" in found.message
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e4")
    found = answer("sft", "model.path=me/public")
    assert found == (2, f"model.path: the access token holds characters that no token has. Again {LOG_IN}")


def test_a_revision_is_named_by_its_setting(hub: FakeHub, answer: Any) -> None:
    found = answer("sft", "model.path=me/public", "model.revision=v9")
    assert found == (2, "model.revision: me/public has no revision v9 on the Hub. Name a branch, tag or commit of it.")
    found = answer("rejection_sample", "reward_model.path=me/public", "reward_model.revision=v9")
    assert found.message.startswith("reward_model.revision: me/public has no revision v9")
    found = answer("rejection_sample", "reward_model.revision=v9")
    assert found.message.startswith("reward_model.revision: is 'v9', and TINY is a folder on this disk")


def test_a_base_that_the_hub_does_not_give_is_named_by_the_adapters_file(
    hub: FakeHub, answer: Any, tmp_path: Path
) -> None:
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "me/gated", "revision": None}
    for base, expected in (
        ("me/gated", "me/gated is gated on the Hub"),
        ("me/publik", "there is no folder me/publik, and there is no model me/publik on the Hub"),
    ):
        text = json.dumps(settings | {"base_model_name_or_path": base})
        (tmp_path / "adapter" / "adapter_config.json").write_text(text)
        found = answer("sft", "model.path=T/adapter")
        assert found.code == 2
        assert found.message.startswith(f"T/adapter/adapter_config.json: base_model_name_or_path: {expected}")


@pytest.mark.parametrize("offline", [False, True])
def test_without_network_one_try_is_made_and_says_what_can_be_done(
    offline: bool, answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s for another try")

    monkeypatch.setattr("time.sleep", waits)
    pointed_at(NOWHERE, tmp_path / "cache", monkeypatch, offline=offline)
    for setting in ("model.path=me/public", "data.path=me/public", "data.path=hf://datasets/me/public/train.jsonl"):
        found = answer("sft", setting)
        assert found.code == 1
        if offline:
            assert "HF_HUB_OFFLINE is set, and the local cache has no complete copy of me/public." in found.message
            assert "Unset HF_HUB_OFFLINE to download it, or name a local folder" in found.message
        else:
            assert f"the Hub cannot be reached ([Errno {errno.ECONNREFUSED}] " in found.message
            assert "Check the network, the proxy and HF_ENDPOINT" in found.message
            assert "hf download me/public" in found.message
            assert "with HF_HUB_OFFLINE=1 only the cache is read" in found.message


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, code, expected",
    [
        ("me/gated", 2, f"me/gated: me/gated {NOT_LOGGED_IN} HUB/datasets/me/gated, then {LOG_IN}"),
        ("me/publik", 2, f"me/publik: there is no such file here, and there is no dataset me/publik {MISSING} Did you"),
        ("me/busy", 1, "me/busy: the Hub has received too many requests from here (status 429)."),
        ("me/script", 2, "me/script: is a dataset that its own script builds, and no script is run. Use its Parquet"),
        ("{path: me/public, revision: v9}", 2, "me/public: revision: me/public has no revision v9 on the Hub."),
        ("me/configs", 2, "name: has several configurations (main, other). Choose one with {path: me/configs,"),
        ("{path: me/configs, name: nope}", 2, "name: has no configuration 'nope'. Its configurations: main, other."),
        ("{path: me/configs, name: main}", 2, "me/configs: has several splits (train, test). Choose one with"),
        ("{path: me/configs, name: main, split: dev}", 2, "me/configs: has no split 'dev'. Its splits: train, test."),
        ("hf://datasets/me/gated/train.jsonl", 2, "hf://datasets/me/gated/train.jsonl: me/gated is gated on the Hub"),
        ("hf://datasets/me/public/nope.jsonl", 2, "the dataset me/public has no such file on the Hub. See its files"),
        ("hf://datasets/me/nope/train.jsonl", 2, "there is no dataset me/nope on the Hub, or it is private."),
        ("https://huggingface.co/datasets/me/public", 2, "Did you mean me/public, or hf://datasets/me/public/FILE?"),
        ("s3://bucket/rows.jsonl", 2, "needs a library that is not installed (Install s3fs to access S3). Install the"),
        ("foo://rows.jsonl", 2, "foo://rows.jsonl: cannot be read (Protocol not known: foo). Check the address"),
        ("T/rowss.jsonl", 2, "T/rowss.jsonl: cannot be read (No such file or directory). Did you mean T/rows.jsonl?"),
    ],
)  # fmt: skip
def test_a_dataset_that_cannot_be_read_is_one_message(
    source: str, code: int, expected: str, hub: FakeHub, answer: Any
) -> None:
    found = answer("sft", f"data.path={source}")
    assert found.code == code
    assert expected.replace("HUB", hub.endpoint) in found.message


@pytest.mark.slow
def test_a_gated_model_and_dataset_are_read_with_a_token_that_has_access(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is a Hub: what it does not refuse is read, and a model from its cache without network."""
    from align.models.checkpoints import open_checkpoint
    from align.records import records_of

    monkeypatch.setenv("HF_TOKEN", GRANTED)
    assert open_checkpoint("me/gated").config["model_type"] == "llama"
    assert len(list(records_of("me/gated"))) == 4
    for offline in (False, True):
        pointed_at(NOWHERE, tmp_path / "cache", monkeypatch, offline=offline)
        assert open_checkpoint("me/gated").config["model_type"] == "llama"


# Checkpoints on this disk


def changed(name: str, content: str | bytes | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def of_type(model_type: str, **more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type, **more}))

    return change


@pytest.mark.parametrize(
    "change, expected",
    [
        (changed("config.json", "{not json"), "T/model/config.json: cannot be read as JSON (Expecting property name"),
        (changed("config.json", ""), "T/model/config.json: cannot be read as JSON (Expecting value: line 1 column 1"),
        (changed("config.json", "[1]"), "T/model/config.json: holds a JSON list; expected an object."),
        (changed("config.json", "{}"), "T/model/config.json: has the model_type None; expected a name such as 'llama'"),
        (of_type("llamma"), "the model_type 'llamma', which transformers VERSION does not know. Did you mean 'llama'?"),
        (of_type("new9", auto_map={}), "does not know, and its own code, which is never run here. If the model is"),
        (changed("tokenizer.json", "nope"), "T/model/tokenizer.json: cannot be read as JSON (Expecting value"),
        (changed("tokenizer.json", "{}"), "T/model: holds a tokenizer that cannot be read (KeyError: 'added_tokens')."),
        (changed("tokenizer.json", None), "T/model: holds no tokenizer: none of tokenizer.json, tokenizer.model"),
        (changed("model.safetensors", b""), "T/model/model.safetensors: is not a whole safetensors file of 0 bytes"),
        (changed("model.safetensors", b"\x10" * 99), "T/model/model.safetensors: is not a whole safetensors file"),
        (changed("model.safetensors", None), "T/model: holds no model.safetensors and no model.safetensors.index.json"),
    ],
)  # fmt: skip
def test_a_damaged_or_unknown_checkpoint_is_one_message(
    change: Callable[[Path], None], expected: str, answer: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import transformers

    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    change(tmp_path / "model")
    found = answer("sft", "model.path=T/model")
    assert found.code == 1
    assert expected.replace("VERSION", transformers.__version__) in found.message


def test_attention_that_this_machine_cannot_run_is_refused_before_rows_are_encoded(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from align.trainers import data

    def encoded(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("rows were encoded")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(data, "sft_trees", encoded)
    found = answer("sft", "model.attention=flex")
    assert found.code == 2
    assert found.message.startswith("model.attention: flex requires a GPU")


def test_a_model_without_a_score_head_is_refused_before_it_is_needed(answer: Any) -> None:
    found = answer("rejection_sample")
    assert found.code == 1
    assert found.message.startswith("TINY: has no reward head: the tensor score.weight is in no file.")


@pytest.mark.slow
def test_running_out_of_memory_in_a_step_names_the_present_settings(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from align.trainers.sft import SFTTrainer

    monkeypatch.setattr(SFTTrainer, "batch_loss", lambda *arguments: torch.empty(2**52))  # no machine has as much
    found = answer("sft", "data.token_budget=512", "model.gradient_checkpointing=true", "model.lora={rank: 4}")
    assert found.code == 1
    assert found.message.startswith("memory: out of memory on the CPU in step 1 ([enforce fail at alloc_cpu.cpp")
    assert ". Now: data.token_budget 512, longest row " in found.message
    assert "model.gradient_checkpointing true, model.lora rank 4, precision fp32, not sharded." in found.message
    assert "Lower data.token_budget (now 512), down to " in found.message
    assert "gradient_checkpointing=true" not in found.message
    assert "model.lora={}" not in found.message


@pytest.mark.parametrize(
    "settings, expected",
    [
        (["training.report_to=wandb"], "training.report_to: "),
        (["training.optimizer=adamw_8bit"], "training.optimizer: "),
        (["model.quantization=nf4", "model.lora={}"], "model.quantization: "),
    ],
)
def test_a_missing_package_names_its_extra(
    settings: list[str], expected: str, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    missing = ("wandb", "bitsandbytes")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in missing else find(name, *more))
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    found = answer("sft", *settings)
    assert found.code == 2
    assert expected in found.message
    assert "Install the extra: pip install 'align-post-training[" in found.message


def test_a_checkpoint_to_publish_that_is_missing_is_not_called_unfinished(answer: Any, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    assert answer("publish", "checkpoint=T/polici") == (1, "T/polici: there is no such folder. Did you mean T/policy?")
    found = answer("publish", "checkpoint=me/public")
    assert found.message.startswith("me/public: there is no such folder. Name the folder of a finished checkpoint")
