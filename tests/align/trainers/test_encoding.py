"""Rows that several processes encode: the bytes of one process, its errors, and nothing half or left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest

from align.chat import load_protocol
from align.errors import RowError, StageError
from align.jsonl import LeftOut, write_rows
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import PreferenceDataConfig, SFTConfig, Source, TrainingConfig, TreeDataConfig
from align.trainers import encoding
from align.trainers.data import DROPPED, TREES, preference_eval_trees, preference_trees, sft_trees
from align.trainers.encoding import Encoder, encoded, in_chunks, processes_for
from align.tree.encode import Ask, encode_preferences, sft_ask
from align.tree.store import TreeStore


def preference(number: int, level: str | None = None, words: int = 3) -> PreferenceRow:
    def says(text: str) -> tuple[Message, ...]:
        return (Message(role="assistant", content=text),)

    return PreferenceRow(
        id=f"p{number}",
        source="test",
        prompt=(Message(role="user", content=f"Number {number} of the capital of France?"),),
        completions=(says(f"It is {number}. " + "Paris " * words), says(f"It is {number + 1}.")),
        level=level,
    )


def messy_file(path: Path) -> None:
    """90 rows with repeats, bad lines, ids of other rows, levels that are not trained on, and rows over the budget."""
    rng = random.Random(0)
    rows = [preference(n, rng.choice([None, "better", "slightly better"]), rng.choice([3, 60])) for n in range(90)]
    lines = [row.model_dump_json(exclude_defaults=True) for row in rows]
    lines[20] = lines[3]
    lines[41] = lines[40]
    lines[50] = '{"id": "p50", "prompt": 7}'
    lines[60] = lines[61].replace('"p61"', '"p7"')
    lines[70] = "not JSON"
    path.write_text("\n".join(lines) + "\n")


SETTINGS = {"bad_rows": "drop", "token_budget": 120, "levels": ["better"]}


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes(
    tmp_path: Path, chatml_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 7)
    protocol = load_protocol(chatml_tokenizer)
    messy_file(tmp_path / "rows.jsonl")
    write_rows(tmp_path / "more.jsonl", [preference(n) for n in range(100, 140)])
    sources = (tmp_path / "rows.jsonl", Source(path=str(tmp_path / "more.jsonl"), weight=1.5))
    found = {}
    for processes in (1, 2):
        output = tmp_path / str(processes)
        data = PreferenceDataConfig(path=sources, eval_ratio=0.2, encode_processes=processes, **SETTINGS)
        training = TrainingConfig(output_dir=output)
        trees = preference_trees(data, training, protocol, pairs=True)
        alone = data.model_copy(update={"eval_limit": 5, "encode_processes": 1})
        held_out = preference_eval_trees(alone, training, protocol, pairs=True)
        assert held_out is not None
        assert len(held_out) == 5
        found[processes] = files_of(output)
    assert found[1] == found[2]
    dropped = json.loads(found[1][DROPPED])["dropped"]
    assert dropped.keys() > {"exact repeat of another row", "bad row: its id is the id of another row"}
    assert dropped.keys() > {"level is slightly better", "tree is larger than token_budget", "held out for validation"}
    assert any(tree.id.endswith(".1") for tree in trees), "rows of weight 1.5 have copies"


def test_trees_are_those_of_the_rows_in_memory(
    tmp_path: Path, chatml_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 7)
    protocol = load_protocol(chatml_tokenizer)
    rows = [preference(n, words=n % 9) for n in range(30)]
    write_rows(tmp_path / "rows.jsonl", rows)
    data = PreferenceDataConfig(path=tmp_path / "rows.jsonl")
    stored = preference_trees(data, TrainingConfig(output_dir=tmp_path / "run"), protocol)
    expected = list(encode_preferences(rows, protocol, data, dropped=Counter()))
    assert [tree.id for tree in stored] == [tree.id for tree in expected]
    for tree, other in zip(stored, expected, strict=True):
        assert tree.prompt.tolist() == other.prompt.tolist()
        for branch, its in zip(tree.branches, other.branches, strict=True):
            for name in ("ids", "loss_mask", "contrast_mask"):
                assert getattr(branch, name).tolist() == getattr(its, name).tolist()


def test_the_number_of_processes_is_no_part_of_what_the_trees_depend_on(tmp_path: Path, chatml_tokenizer) -> None:
    write_rows(tmp_path / "rows.jsonl", [preference(n) for n in range(3)])
    protocol = load_protocol(chatml_tokenizer)
    training = TrainingConfig(output_dir=tmp_path / "run")
    keys = {
        preference_trees(
            PreferenceDataConfig(path=tmp_path / "rows.jsonl", encode_processes=processes), training, protocol
        ).key
        for processes in (None, 1, 7)
    }
    assert len(keys) == 1


@pytest.mark.slow
def test_the_first_bad_row_is_the_one_that_is_named(
    tmp_path: Path, chatml_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 4)
    lines = [preference(n).model_dump_json(exclude_defaults=True) for n in range(30)]
    lines[9] = '{"id": "p9", "source": "test", "prompt": []}'
    lines[29] = "not JSON"
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    data = PreferenceDataConfig(path=(tmp_path / "rows.jsonl", tmp_path / "none.jsonl"), encode_processes=2)
    monkeypatch.setattr("align.trainers.data.identities_of", lambda sources: {str(each): "" for each in sources})
    monkeypatch.setattr("align.trainers.data.key_of", lambda sources, inputs: "")
    monkeypatch.setattr("align.trainers.data.count_rows", lambda sources: 30)
    with pytest.raises(RowError, match=r"rows\.jsonl:10: prompt"):
        preference_trees(data, TrainingConfig(output_dir=tmp_path / "run"), load_protocol(chatml_tokenizer))
    assert not list((tmp_path / "run").iterdir())


def killing_ask(row: SFTRow) -> Ask:
    """Ends the process that encodes row d9, as the system does if memory is short."""
    if row.id == "d9":
        os.kill(os.getpid(), signal.SIGKILL)
    return sft_ask(row, train_on="final")


def dialog(number: int) -> SFTRow:
    said = (Message(role="user", content=f"Say {number}."), Message(role="assistant", content=f"{number}"))
    return SFTRow(id=f"d{number}", source="test", messages=said)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_with_advice(tmp_path: Path, chatml_tokenizer) -> None:
    data = TreeDataConfig(path=tmp_path)
    encoder = Encoder(SFTRow, killing_ask, load_protocol(chatml_tokenizer), data, None, 0)
    records = (
        encoding.Found("rows", f"rows:{n}", dialog(n).model_dump_json(exclude_defaults=True).encode(), [0])
        for n in range(40)
    )
    with pytest.raises(StageError) as caught:
        list(encoded(encoder, in_chunks(records), 2))
    assert str(caught.value).startswith("data.encode_processes: one of the 2 processes that encode rows was killed")


RUN = """
import sys
from pathlib import Path

if __name__ == "__main__":  # the processes that encode import this file, too
    from align.chat import load_protocol
    from align.settings import TrainingConfig, TreeDataConfig
    from align.trainers import encoding
    from align.trainers.data import sft_trees
    from transformers import PreTrainedTokenizerFast

    encoding.CHUNK_ROWS = 16
    protocol = load_protocol(PreTrainedTokenizerFast.from_pretrained(sys.argv[1]))
    data = TreeDataConfig(path=Path(sys.argv[2]), encode_processes=2)
    sft_trees(data, TrainingConfig(output_dir=Path(sys.argv[3])), protocol)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_no_half_file_and_the_next_one_encodes(
    tmp_path: Path, tiny_checkpoint: Path, chatml_tokenizer
) -> None:
    (tmp_path / "run.py").write_text(RUN)
    write_rows(tmp_path / "rows.jsonl", map(dialog, range(20_000)))
    output = tmp_path / "run"
    words = [sys.executable, tmp_path / "run.py", tiny_checkpoint, tmp_path / "rows.jsonl", output]
    started = subprocess.Popen(list(map(str, words)), stderr=subprocess.DEVNULL)
    while not any(file.stat().st_size for file in output.glob(f".{TREES}.*.part")):
        assert started.poll() is None
        time.sleep(0.01)
    helpers = psutil.Process(started.pid).children(recursive=True)
    assert len(helpers) >= 2
    started.kill()
    started.wait()
    _, alive = psutil.wait_procs(helpers, timeout=60)
    assert not alive
    assert not (output / TREES).exists()
    data = TreeDataConfig(path=tmp_path / "rows.jsonl", limit=10)
    trees = sft_trees(data, TrainingConfig(output_dir=output), load_protocol(chatml_tokenizer), SFTConfig())
    assert len(trees) == 10
    assert {file.name for file in output.iterdir()} == {TREES, DROPPED}
    assert len(TreeStore(output / TREES)) == 10


def test_few_rows_need_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TreeDataConfig(path=tmp_path)
    monkeypatch.setattr(encoding, "cpus_of_process", lambda: 16)
    assert processes_for(data, 1000) == 1
    assert processes_for(data, 3 * encoding.ROWS_OF_A_PROCESS) == 3
    assert processes_for(data, 10**6) == 16
    assert processes_for(data.model_copy(update={"encode_processes": 5}), 10) == 5


def test_cpus_are_divided_by_the_processes_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align.hardware.os.sched_getaffinity", lambda process: set(range(12)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert encoding.cpus_of_process() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert encoding.cpus_of_process() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert encoding.cpus_of_process() == 3


def test_chunks_end_by_rows_or_bytes_and_an_error_comes_after_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 3)
    monkeypatch.setattr(encoding, "CHUNK_BYTES", 10)

    def records():
        yield from (encoding.Found("a", f"a:{n}", b"12", [0]) for n in range(4))
        yield LeftOut("a", {"left out by weight": 1})
        yield encoding.Found("a", "a:5", b"123456789", [0])
        raise RowError("a:6", "breaks off", "Copy it")

    chunks = list(in_chunks(records()))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert isinstance(chunks[2][0], RowError)


def test_an_encoder_survives_the_way_to_another_process(llama3_tokenizer, chatml_tokenizer, tmp_path: Path) -> None:
    """Every protocol, the tokenizer's own template included, gives the same ids there."""
    import pickle

    for tokenizer, name in ((llama3_tokenizer, "llama3"), (chatml_tokenizer, "chatml"), (chatml_tokenizer, "native")):
        if name == "native":
            tokenizer.chat_template = load_protocol(tokenizer, "chatml").chat_template
        protocol = load_protocol(tokenizer, name)
        ask_of = partial(sft_ask, train_on="final")
        encoder = Encoder(SFTRow, ask_of, protocol, TreeDataConfig(path=tmp_path), None, 0)
        copy = pickle.loads(pickle.dumps(encoder))
        items = [encoding.Found("a", f"a:{n}", dialog(n).model_dump_json().encode(), [0]) for n in range(5)]
        assert copy.encode(items).trees == encoder.encode(items).trees
