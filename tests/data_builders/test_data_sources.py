"""A form of file that one stage reads is read by all: trainers, builders, evaluations, sampling prompts."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from align.chat import load_protocol
from align.errors import RowError
from align.files import fingerprint
from align.jsonl import Drops, read_rows, write_rows
from align.judges.judge import ScoreRequest
from align.manifest import content_fingerprint, read_data_manifest
from align.rounds.stage import Stage
from align.rows import Message, PreferenceRow, PromptRow, QuestionRow, SFTRow
from align.settings import INPUT, PreferenceDataConfig, Source, TrainingConfig, TreeDataConfig, paths_of
from align.trainers.data import preference_trees, sft_trees
from data_builders.preferences import builder
from data_builders.preferences.builder import PreferencesConfig
from data_builders.quality import mix
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.mix import MixSource, SFTMixConfig
from data_builders.quality.settings import DecontaminationConfig
from data_builders.questions.documents import read_documents
from data_builders.questions.importers import open_questions
from data_builders.row_contents import message_keys
from data_builders.tool_use import imported
from data_builders.tool_use.imported import ImportedDialogsConfig
from eval import reward_accuracy
from eval.reward_accuracy import RewardAccuracyConfig

ROOT = Path(__file__).parents[2]


def keys_of(sources: list[Path | str], bad_rows: Literal["stop", "drop"] = "stop") -> set[str]:
    return set(Decontamination.of(sources, DecontaminationConfig(benchmarks=()), bad_rows).keys)


def as_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def as_gzip(path: Path, records: list[dict[str, Any]]) -> Path:
    plain = as_jsonl(path, records)
    target = path.with_name(path.name + ".jsonl.gz")
    target.write_bytes(gzip.compress(plain.read_bytes()))
    return target


def as_array(path: Path, records: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(records, indent=1))
    return path


def as_csv(path: Path, records: list[dict[str, Any]]) -> Path:
    import csv

    with path.with_suffix(".csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(records[0]))
        writer.writeheader()
        for record in records:
            cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in record.items()}
            writer.writerow(cells)
    return path.with_suffix(".csv")


def as_parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    import datasets

    datasets.Dataset.from_list(records).to_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def as_saved(path: Path, records: list[dict[str, Any]]) -> Path:
    import datasets

    datasets.Dataset.from_list(records).save_to_disk(path)
    return path


def as_pattern(path: Path, records: list[dict[str, Any]]) -> Path:
    path.mkdir()
    for number, record in enumerate(records):
        as_jsonl(path / f"{number:02}.jsonl", [record])
    return path / "*.jsonl"


Form = Callable[[Path, list[dict[str, Any]]], Path]
FORMS: list[Form] = [as_jsonl, as_gzip, as_array, as_csv, as_parquet, as_saved, as_pattern]


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__.removeprefix("as_"))
def form(request: pytest.FixtureRequest) -> Form:
    return request.param


def training(folder: Path) -> TrainingConfig:
    return TrainingConfig(output_dir=folder)


PAIRS = [{"prompt": f"How much is {n}?", "chosen": f"It is {n}.", "rejected": f"It is {n + 1}."} for n in range(6)]
DIALOGS = [{"question": f"How much is {n}?", "answer": f"It is {n}.", "seconds": str(n)} for n in range(6)]
MAPPED = {"columns": {"prompt": "question", "completion": "answer"}, "ignore_columns": ["seconds"]}


def test_trainers_read_every_form(form: Form, tmp_path: Path, chatml_tokenizer: Any) -> None:
    protocol = load_protocol(chatml_tokenizer)
    pairs = PreferenceDataConfig(path=form(tmp_path / "pairs", PAIRS))
    trees = preference_trees(pairs, training(tmp_path / "dpo"), protocol, pairs=True)
    plain = preference_trees(
        PreferenceDataConfig(path=as_jsonl(tmp_path / "plain", PAIRS)),
        training(tmp_path / "plain-dpo"),
        protocol,
        pairs=True,
    )
    assert [tree.prompt.tolist() for tree in trees] == [tree.prompt.tolist() for tree in plain]
    assert [tree.id for tree in trees] == [tree.id for tree in plain]
    dialogs = TreeDataConfig.model_validate({"path": {"path": str(form(tmp_path / "dialogs", DIALOGS)), **MAPPED}})
    assert len(sft_trees(dialogs, training(tmp_path / "sft"), protocol)) == 6


def test_builders_read_every_form(form: Form, tmp_path: Path) -> None:
    builder.build(PreferencesConfig(path=form(tmp_path / "pairs", PAIRS), heldout_ratio=0), tmp_path / "built")
    assert len(read_rows(tmp_path / "built" / "preferences.jsonl", PreferenceRow)) == 6
    source = Source.model_validate({"path": str(form(tmp_path / "dialogs", DIALOGS)), **MAPPED})
    mix.build(SFTMixConfig(sources={"ours": MixSource(path=source)}), tmp_path / "mix")
    assert len(read_rows(tmp_path / "mix" / "sft.jsonl", SFTRow)) == 6
    held = message_keys((Message(role="user", content="How much is 3?"),))
    assert held < keys_of([source.path])
    (document, *_) = read_documents([form(tmp_path / "texts", [{"title": "One", "text": "First."}] * 2)])
    assert document.text == "First."
    questions = [{"question": f"who is {n}", "answer": "ann"} for n in range(3)]
    assert open_questions([form(tmp_path / "questions", questions)]).rows[0].answers == ("ann",)


class Fixed:
    """A scorer for which the longer answer is better."""

    def scores(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return [[float(len(done[0].content)) for done in request.completions] for request in requests]


def test_evaluations_and_sampling_prompts_are_read_from_every_form(form: Form, tmp_path: Path) -> None:
    config = RewardAccuracyConfig(pairs=form(tmp_path / "pairs", PAIRS))
    assert reward_accuracy.evaluate(config, Fixed(), tmp_path, None).counts["pairs"] == 6  # type: ignore[arg-type]
    prompts = form(tmp_path / "prompts", [{"prompt": record["prompt"]} for record in PAIRS])
    assert [row.prompt[0].content for row in read_rows(prompts, PromptRow)] == [record["prompt"] for record in PAIRS]
    questions = [{"id": str(n), "source": "s", "prompt": [{"role": "user", "content": f"Who is {n}?"}],
                  "entity": str(n), "relation": "who", "answers": ["Ann"]} for n in range(3)]  # fmt: skip
    assert [row.entity for row in read_rows(form(tmp_path / "questions", questions), QuestionRow)] == ["0", "1", "2"]


# Drops, in every stage


def with_faults(path: Path) -> Path:
    """Six good pairs, one of them twice, and two bad lines."""
    lines = [json.dumps(pair).encode() for pair in [*PAIRS, PAIRS[0]]]
    path.write_bytes(b"\n".join([*lines, '{"prompt": "é"}'.encode("latin-1"), b'{"prompt": NaN}', b""]))
    return path


def test_trainers_drop_bad_rows_and_count_them_by_reason_and_source(tmp_path: Path, chatml_tokenizer: Any) -> None:
    protocol = load_protocol(chatml_tokenizer)
    path, good = with_faults(tmp_path / "a.jsonl"), as_jsonl(tmp_path / "b.jsonl", [{**PAIRS[0], "prompt": "Else?"}])
    with pytest.raises(RowError, match=r"a\.jsonl:8: is not UTF-8 \(byte 0xe9 at column 13\)"):
        preference_trees(PreferenceDataConfig(path=path), training(tmp_path / "run"), protocol)
    data = PreferenceDataConfig(path=(path, good), bad_rows="drop")
    assert len(preference_trees(data, training(tmp_path / "run"), protocol)) == 7
    record = json.loads((tmp_path / "run" / "dropped.json").read_text())
    repeated, encoding, number = (
        "exact repeat of another row",
        "bad row: is not UTF-8",
        "bad row: holds NaN, which is no JSON",
    )
    assert record["rows"] == 7
    assert record["dropped"] == {repeated: 1, encoding: 1, number: 1}
    assert record["sources"] == {
        str(path): {"read": 9, "dropped": {repeated: 1, encoding: 1, number: 1}},
        str(good): {"read": 1, "dropped": {}},
    }
    assert [text.split(": ")[0] for text in record["bad_rows"]] == [f"{path}:8", f"{path}:9"]


def test_trainers_keep_repeats_under_ids_of_their_own_and_weigh_sources(tmp_path: Path, chatml_tokenizer: Any) -> None:
    protocol = load_protocol(chatml_tokenizer)
    path = as_jsonl(tmp_path / "a.jsonl", [PAIRS[0], PAIRS[1], PAIRS[0]])
    kept = preference_trees(PreferenceDataConfig(path=path, duplicates="keep"), training(tmp_path / "1"), protocol)
    assert len({tree.id for tree in kept}) == 3
    weighed = PreferenceDataConfig.model_validate({"path": [{"path": str(path), "weight": 2}, str(path)]})
    assert len(preference_trees(weighed, training(tmp_path / "2"), protocol)) == 4
    limited = weighed.model_copy(update={"limit": 3})
    assert len(preference_trees(limited, training(tmp_path / "3"), protocol)) <= 3


def test_prepared_rows_are_made_again_when_a_source_is_read_in_another_way(
    tmp_path: Path, chatml_tokenizer: Any
) -> None:
    protocol = load_protocol(chatml_tokenizer)
    path = str(as_jsonl(tmp_path / "a.jsonl", PAIRS))
    for source, rows in (({"path": path}, 6), ({"path": path, "weight": 0.5}, 3), ({"path": path, "weight": 2}, 12)):
        data = PreferenceDataConfig.model_validate({"path": source})
        assert len(preference_trees(data, training(tmp_path / "run"), protocol)) == rows


def test_builders_count_bad_rows(tmp_path: Path) -> None:
    rows = [SFTRow(id=str(n), source="s", messages=(Message(role="user", content=f"Ask the number {n}"),
                   Message(role="assistant", content="Yes"))) for n in range(3)]  # fmt: skip
    write_rows(tmp_path / "a.jsonl", rows)
    with (tmp_path / "a.jsonl").open("ab") as handle:
        handle.write(b"{\n" + b'{"messages": "\\ud83d"}\n')
    sources = {"ours": MixSource(path=tmp_path / "a.jsonl")}
    with pytest.raises(RowError, match=r"a\.jsonl:4: is not JSON"):
        mix.build(SFTMixConfig(sources=sources), tmp_path / "mix")
    mix.build(SFTMixConfig(sources=sources, bad_rows="drop"), tmp_path / "mix")
    manifest = read_data_manifest(tmp_path / "mix" / "sft.jsonl")
    assert manifest["counts"]["rows"] == 3
    assert sum(count for reason, count in manifest["counts"]["dropped"].items() if reason.startswith("bad row")) == 2
    with pytest.raises(RowError, match="is not JSON"):
        imported.build(ImportedDialogsConfig(path=tmp_path / "a.jsonl"), tmp_path / "tools")
    imported.build(ImportedDialogsConfig(path=tmp_path / "a.jsonl", bad_rows="drop"), tmp_path / "tools")
    dropped = read_data_manifest(tmp_path / "tools" / "tools.jsonl")["counts"]["dropped"]
    assert sum(count for reason, count in dropped.items() if reason.startswith("bad row")) == 2


def test_evaluations_count_bad_rows(tmp_path: Path) -> None:
    path = with_faults(tmp_path / "a.jsonl")
    with pytest.raises(RowError, match="is not UTF-8"):
        reward_accuracy.evaluate(RewardAccuracyConfig(pairs=path), Fixed(), tmp_path, None)  # type: ignore[arg-type]
    config = RewardAccuracyConfig(pairs=path, bad_rows="drop")
    counts = reward_accuracy.evaluate(config, Fixed(), tmp_path, None).counts  # type: ignore[arg-type]
    assert counts["pairs"] == 6
    assert sum(counts["dropped"].values()) == 3


def test_a_mix_of_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RowError, match=r"empty\.jsonl: holds no rows"):
        mix.build(SFTMixConfig(sources={"a": MixSource(path=tmp_path / "empty.jsonl")}), tmp_path / "mix")
    (tmp_path / "empty.jsonl.manifest.json").write_text('{"counts": {"rows": 0}}')
    with pytest.raises(RowError, match=r"empty\.jsonl: contain no rows"):
        mix.build(SFTMixConfig(sources={"a": MixSource(path=tmp_path / "empty.jsonl")}), tmp_path / "mix")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, message",
    [
        ("none.jsonl", "none.jsonl: cannot be read (No such file or directory). Name a file that exists"),
        (".", "is a folder that `save_to_disk` did not write"),
        ("*.nothing", "*.nothing: matches no file"),
        ("/dev/zero", "/dev/zero: is a device"),
    ],
)
def test_the_recipe_answers_an_unusable_path_with_a_message(tmp_path: Path, path: str, message: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"preferences": {"path": path}, "output": "built"}))
    command = [sys.executable, str(ROOT / "recipes" / "build_data.py"), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_every_builder_that_reads_records_drops_or_stops(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "One."}\n{"title": "no text"}\n{"text": "Two."}\n')
    with pytest.raises(RowError, match=r"texts\.jsonl:2: expected the column text"):
        list(read_documents([path]))
    drops = Drops()
    assert [document.text for document in read_documents([path], "drop", drops)] == ["One.", "Two."]
    assert drops.reasons == {"bad row: expected the column text, and optionally title": 1}
    (tmp_path / "lines.txt").write_bytes("One\u2028line.\n\nTwo.\n".encode() + b"\xe9\n")
    with pytest.raises(RowError, match=r"lines\.txt:4: is not UTF-8"):
        list(read_documents([tmp_path / "lines.txt"]))
    assert [document.text for document in read_documents([tmp_path / "lines.txt"], "drop")] == [
        "One\u2028line.",
        "Two.",
    ]
    path.write_text('{"question": "who", "answer": "ann"}\n{"answer": "ann"}\n{"question": "ann", "answer": "ann"}\n')
    with pytest.raises(RowError, match=r"texts\.jsonl:2: question"):
        open_questions([path])
    found = open_questions([path], "drop")
    assert found.dropped == {"answer is in the question": 1, "bad row: question: expected a text": 1}
    path.write_text('{"prompt": "What is the capital of Chad?"}\n{"nothing": 1}\n')
    with pytest.raises(RowError, match=r"texts\.jsonl:2: expected a row with prompt"):
        keys_of([path])
    assert len(keys_of([path], "drop")) == 2


def test_what_a_run_was_made_of_is_recorded(tmp_path: Path, chatml_tokenizer: Any) -> None:
    path = as_jsonl(tmp_path / "a.jsonl", PAIRS)
    data = PreferenceDataConfig(path=tmp_path / "*.jsonl")
    preference_trees(data, training(tmp_path / "run"), load_protocol(chatml_tokenizer))
    assert json.loads((tmp_path / "run" / "dropped.json").read_text())["inputs"] == {str(path): fingerprint(path)}
    builder.build(PreferencesConfig(path=tmp_path / "*.jsonl", heldout_ratio=0), tmp_path / "built")
    manifest = read_data_manifest(tmp_path / "built" / "preferences.jsonl")
    assert manifest["inputs"] == {str(path): fingerprint(path)}


def test_the_key_of_a_stage_holds_the_sources_of_its_rows(tmp_path: Path) -> None:
    def key(source: Any) -> str:
        config = PreferenceDataConfig.model_validate({"path": source})
        inputs = paths_of(config, INPUT)
        stage = Stage("s", 1, "r", (), config, inputs=inputs)
        return stage.key({name: content_fingerprint(path) for name, path in inputs.items()}, "", {})

    (tmp_path / "a").mkdir()
    one, other = as_jsonl(tmp_path / "a" / "1.jsonl", PAIRS), as_jsonl(tmp_path / "b.jsonl", PAIRS)
    assert key(str(one)) == key(str(other)), "content counts, and not where it is"
    pattern = str(tmp_path / "a" / "*.jsonl")
    before = key(pattern)
    as_jsonl(tmp_path / "a" / "2.jsonl", PAIRS[:1])
    assert key(pattern) != before
    hub = {"path": "hf://datasets/owner/name/a.jsonl", "split": None}
    assert key(hub) != key({**hub, "path": "hf://datasets/owner/other/a.jsonl"})
    assert key({"path": str(one), "weight": 2}) != key(str(one))
    assert key([{"path": str(one), "columns": {"prompt": "q"}}]) != key([{"path": str(one)}])
