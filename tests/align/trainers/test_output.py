"""The output folder of a run: refused where writing could change another model, and held by one run at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from align.errors import CheckpointError, ConfigError
from align.jsonl import write_rows
from align.manifest import write_folder_manifest
from align.rows import Message, SFTRow
from align.settings import ModelConfig, TrainingConfig, TreeDataConfig
from align.trainers.output import claim_output, release_output, write_errors


def train(start: Path, output: Path) -> Path:
    from recipes.sft import SFTRecipe, run

    data = output.parent / "rows.jsonl"
    messages = [
        (Message(role="user", content=f"Say {n}."), Message(role="assistant", content=str(n))) for n in range(4)
    ]
    write_rows(data, [SFTRow(id=f"r{n}", source="test", messages=each) for n, each in enumerate(messages)])
    training = TrainingConfig(output_dir=output, batch_size=2, precision="fp32")
    return run(SFTRecipe(model=ModelConfig(path=start), data=TreeDataConfig(path=data), training=training))


def claim(output: Path, start: Path | str) -> None:
    claim_output(output, start)
    release_output(output)


@pytest.mark.parametrize(
    "output, message",
    [
        ("start", r" is \S+, which is read"),
        ("start/../start", r" is \S+, which is read"),
        ("link", r" is \S+, which is read"),
        ("start/run", r" lies in \S+, which is read"),
        ("start/a/b", r" lies in \S+, which is read"),
        (".", r" contains \S+, which is read"),
        ("foreign", r"holds a model that no run of align wrote \(config\.json, and no MANIFEST\.json\)"),
        ("weights", r"holds a model that no run of align wrote \(pytorch_model-1\.bin"),
        ("foreign/run", "is inside the folder of another model"),
        ("finished/run", "is inside the folder of another model"),
    ],
)
def test_a_folder_in_which_another_model_could_be_changed_is_refused_before_anything_is_written(
    output: str, message: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    start = shutil.copytree(tiny_checkpoint, tmp_path / "start")
    shutil.copytree(tiny_checkpoint, tmp_path / "foreign")
    (tmp_path / "link").symlink_to(start)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pytorch_model-1.bin").touch()
    (tmp_path / "finished").mkdir()
    write_folder_manifest(tmp_path / "finished", [])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=rf"training\.output_dir: .*{message}.*Name a"):
        claim(tmp_path / output, start)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_base_of_an_adapter_is_protected_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    with pytest.raises(ConfigError, match=r" is \S+, which is read"):
        claim(base, tmp_path / "adapter")


def test_a_folder_of_our_own_is_taken_whether_finished_or_ended_in_any_place(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    for name, made in {"metrics": "metrics.jsonl", "sealed": "checkpoint-2/MANIFEST.json"}.items():
        output = shutil.copytree(tiny_checkpoint, tmp_path / name)
        (output / made).parent.mkdir(exist_ok=True)
        (output / made).touch()
        claim(output, tiny_checkpoint)
    finished = shutil.copytree(tiny_checkpoint, tmp_path / "finished")
    write_folder_manifest(finished, list(finished.iterdir()))
    claim(finished, tiny_checkpoint)
    (tmp_path / "config.json").write_text("{}")  # of a project, and not a model's: no weights lie there
    claim(tmp_path / "new" / "run", "owner/name")
    claim(tmp_path / "new" / "run-2", tiny_checkpoint)


def test_what_a_killed_run_left_half_written_is_deleted_and_files_of_other_runs_stay(tmp_path: Path) -> None:
    output = tmp_path / "run"
    left = [output / ".timing.json.as_8edae.part", output / "reference" / "key" / ".0.safetensors.x.part"]
    kept = [output / "round-1" / ".rows.jsonl.x.part", output / "my.part", output / "metrics.jsonl"]
    for file in (*left, *kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    claim(output, "owner/name")
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in kept)


@pytest.mark.parametrize("name", ["file", "file/run", "x" * 300, "loop", "loop/run"])
def test_a_folder_that_cannot_be_written_to_is_one_message(name: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    why = r"(is a file, and a folder is expected|(cannot be written to|cannot be used) \(.*\))"
    with pytest.raises(ConfigError, match=rf"training\.output_dir.*{why}\. Name a folder"):
        claim(tmp_path / name, tiny_checkpoint)


@pytest.mark.slow
def test_a_second_run_on_one_folder_is_refused_with_the_process_of_the_first(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom align.trainers.output import claim_output\n"
        "claim_output(Path(sys.argv[1]), sys.argv[2]); print('held', flush=True); time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "run"), str(tiny_checkpoint)]
    first = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=rf"another run is writing to it \(process {first.pid} on [^)]+\)"):
        train(tiny_checkpoint, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == [".lock"], "and it wrote nothing"
    first.kill()
    first.wait()
    done = train(tiny_checkpoint, tmp_path / "run")
    assert not (done / ".lock").exists()


def test_a_model_that_is_saved_under_other_names_is_refused_before_training(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a mixture of experts, whose one tensor of all experts becomes one for each while it is saved."""
    from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_experts=4,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "moe")
    tokenizer.save_pretrained(tmp_path / "moe")
    with pytest.raises((CheckpointError, ConfigError), match=r"Moe|experts|mixture"):
        train(tmp_path / "moe", tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_text("x" * 100_000),
        lambda file: torch.save(torch.zeros(100_000), file),
        lambda file: Tokenizer(models.BPE()).save(str(file)),
    ],
    ids=["python", "torch", "tokenizers"],
)
def test_a_full_disk_is_one_message_whichever_library_writes(write: Callable[[Path], object], tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC. safetensors would replace the link: see test_checkpoints.py."""
    file = tmp_path / "file"
    file.symlink_to("/dev/full")
    with (
        pytest.raises(CheckpointError, match=r"cannot be written \(.*\)\. Free some space"),
        write_errors(tmp_path, "Free some space"),
    ):
        write(file)


def test_a_fault_of_the_code_is_no_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(KeyError), write_errors(tmp_path, "Free some space"):
        raise KeyError("x")
