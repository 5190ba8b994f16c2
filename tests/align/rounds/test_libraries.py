"""Which libraries' versions are part of a stage's key, and what an upgrade does to a run."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from align.config import load_config
from align.errors import StageError
from align.rounds import libraries
from align.rounds.libraries import COUNTED, library_versions
from align.rounds.plan import RoundsConfig, load_stages
from align.rounds.stage_inputs import as_recorded
from tests.rounds_project import JOIN, ROOT, Project


def test_installed_libraries_count_by_the_public_part_of_their_version() -> None:
    found = library_versions(["torch", "pydantic", "json", "vllm_that_is_not_installed"], {}, None)
    assert found == {"library/torch": version("torch").partition("+")[0]}
    assert library_versions(["transformers"], {}, None).keys() == {"library/tokenizers", "library/transformers"}
    assert "trl" not in COUNTED


def test_deepspeed_counts_where_it_is_launched_and_bitsandbytes_where_weights_are_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_version", lambda distribution: "1")
    launch = tmp_path / "launch.yaml"
    launch.write_text("distributed_type: MULTI_GPU\n")
    assert library_versions(["deepspeed"], {}, None) == library_versions(["deepspeed"], {}, launch) == {}
    launch.write_text("distributed_type: DEEPSPEED\n")
    assert library_versions([], {}, launch) == {"library/deepspeed": "1"}
    quantized = {"model": {"quantization": "nf4"}}
    assert "library/bitsandbytes" in library_versions(["transformers"], quantized, None)
    assert "library/bitsandbytes" not in library_versions(["transformers"], {"model": {"quantization": None}}, None)


@pytest.mark.slow
def test_stages_depend_on_the_libraries_that_their_code_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = load_stages(load_config(RoundsConfig, "recipes/configs/rounds/rehearsal.yaml"), Path("recipes"))
    found = {
        stage.label: {name.partition("/")[2] for name in stage.code() if name.startswith("library/")}
        for stage in stages
        if stage.label in ("maths", "publish", "round-1/mix", "round-1/dpo", "round-2/dpo")
    }
    trained = {"torch", "transformers", "tokenizers", "accelerate", "peft"}
    assert found == {
        "maths": {"sympy", "pint"},
        "publish": set(),
        "round-1/mix": {"torch", "transformers", "tokenizers", "peft"},  # it counts tokens: align/models/loading.py
        "round-1/dpo": trained,
        "round-2/dpo": trained | {"deepspeed"},
    }


def test_a_library_that_was_not_recorded_or_is_gone_counts_as_unchanged() -> None:
    code = {"align/losses.py": "a"}
    assert as_recorded(code | {"library/torch": "2"}, code) == code
    assert as_recorded(code, code | {"library/vllm": "1"}) == code | {"library/vllm": "1"}
    assert as_recorded(code | {"library/torch": "2"}, code | {"library/torch": "1"}) == code | {"library/torch": "2"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two stages, of which the second one's recipe imports torch where it is never called."""
    made = Project(tmp_path)
    (made.recipes / "other.py").write_text(
        JOIN.replace("JoinRecipe", "OtherRecipe") + "\n\ndef never():\n    import torch\n"
    )
    made.values |= {"rounds": 1, "each_round": [made.stage("sft", "{round_dir}/sft", ["{best}"])], "after": []}
    made.values["each_round"][0]["recipe"] = "other"
    monkeypatch.setenv("TEST_DIARY", str(made.diary_file))
    monkeypatch.setattr(libraries, "_version", lambda distribution: "2.12.0")
    return made


@pytest.mark.slow
def test_an_upgrade_makes_exactly_the_stages_that_use_the_library_again_and_is_announced(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run()
    assert "libraries changed" not in capsys.readouterr().out
    monkeypatch.setattr(libraries, "_version", lambda distribution: "2.13.0")
    project.values["changed_code"] = "keep"
    assert project.run() == []
    out = capsys.readouterr().out
    assert "libraries changed: torch 2.12.0 -> 2.13.0: stages that they made are left as they are (changed_code" in out
    assert "up to date, though libraries changed: torch 2.12.0 -> 2.13.0 (changed_code: keep)" in out
    del project.values["changed_code"]
    assert project.run() == ["round-1/sft"]
    out = capsys.readouterr().out
    assert "libraries changed: torch 2.12.0 -> 2.13.0: stages whose code uses them are made again; set changed_" in out
    assert "made again: libraries changed: torch 2.12.0 -> 2.13.0" in out
    assert project.run() == []
    assert "libraries changed" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("changed_code, made", [("keep", 1), ("remake", 2)])
def test_an_interrupted_stage_goes_on_after_an_upgrade_only_where_changed_code_is_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch, changed_code: str, made: int
) -> None:
    """The stage fails after the first of its two parts."""
    other = project.recipes / "other.py"
    other.write_text(
        other.read_text().replace("time.sleep(60 if", "sys.exit(1) if").replace(" else seconds)", " else 0")
    )
    project.stage("sft", "", [], parts=2)
    monkeypatch.setenv("TEST_STUCK_AT", "1")
    with pytest.raises(StageError, match="ended with code 1"):
        project.run()
    monkeypatch.delenv("TEST_STUCK_AT")
    monkeypatch.setattr(libraries, "_version", lambda distribution: "2.13.0")
    project.values["changed_code"] = changed_code
    assert project.run() == ["round-1/sft"]
    assert project.diary().count("made round-1/sft/0") == made
    assert project.run() == []
