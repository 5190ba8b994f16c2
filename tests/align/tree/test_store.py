"""Trees on disk, and the way of rows to them: nothing is lost, nothing half, nothing twice, and memory stays flat."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from align.chat import ChatProtocol, TokenKind, load_protocol
from align.errors import RowError
from align.files import fingerprint
from align.jsonl import write_rows
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import PreferenceDataConfig, SFTConfig, TrainingConfig, TreeDataConfig
from align.trainers.data import TREES, preference_trees, sft_trees
from align.tree.encode import PromptTree, encode_preferences, encode_sft
from align.tree.store import TreeStore, stored_key, write_trees
from tests.trees import random_tree

PREPARE = """
import sys
from pathlib import Path
from align.chat import load_protocol
from align.settings import PreferenceDataConfig, TrainingConfig
from align.trainers.data import preference_trees
from transformers import PreTrainedTokenizerFast

tokenizer, rows, output = sys.argv[1:]
protocol = load_protocol(PreTrainedTokenizerFast.from_pretrained(tokenizer))
data = PreferenceDataConfig(path=Path(rows))
trees = preference_trees(data, TrainingConfig(output_dir=Path(output)), protocol, pairs=True)
print(len(trees), sum(int(branch.ids.sum()) for tree in trees for branch in tree.branches))
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.fixture(params=["chatml", "llama3"])
def protocol(request: pytest.FixtureRequest) -> ChatProtocol:
    return load_protocol(request.getfixturevalue(f"{request.param}_tokenizer"))


def row(number: int, words: str = "capital of France") -> PreferenceRow:
    def says(text: str) -> tuple[Message, ...]:
        return (Message(role="assistant", content=text),)

    return PreferenceRow(
        id=f"p{number}",
        source="test",
        prompt=(Message(role="user", content=f"What is number {number}, the {words}?"),),
        completions=(says(f"It is {number}."), says(f"It is {number + 1}.")),
    )


def prepare(rows: Path, output: Path, protocol: ChatProtocol, **changed) -> TreeStore:
    data = PreferenceDataConfig(path=rows, **changed)
    return preference_trees(data, TrainingConfig(output_dir=output), protocol, pairs=True)


def command(checkpoint: Path, rows: Path, output: Path) -> list[str]:
    return [sys.executable, "-c", PREPARE, str(checkpoint), str(rows), str(output)]


def wide_tree(rng: np.random.Generator, number: int) -> PromptTree:
    """With ids up to the largest that a store holds, and a name that is not ASCII."""
    return random_tree(rng, f"ï{number}", vocabulary=2**31 - 1, untrained=True)


def plain(tree: PromptTree) -> tuple:
    """A tree as lists, which compare."""
    assert tree.prompt.dtype == np.int32
    branches = [(b.ids.tolist(), b.loss_mask.tolist(), b.contrast_mask.tolist()) for b in tree.branches]
    return tree.id, tree.prompt.tolist(), branches, tree.level


@pytest.mark.slow
def test_trees_come_back_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trees = [wide_tree(rng, number) for number in range(2500)]
    write_trees(tmp_path / "t.arrow", iter(trees), "key")
    store = TreeStore(tmp_path / "t.arrow")
    assert len(store) == len(trees)
    assert [plain(tree) for tree in store] == [plain(tree) for tree in trees]
    for place in (0, 1023, 1024, 2499, -1, -2500):
        assert plain(store[place]) == plain(trees[place])
    assert [tree.id for tree in store[1022:1026]] == [tree.id for tree in trees[1022:1026]]
    for place in (2500, -2501):
        with pytest.raises(IndexError):
            store[place]
    assert {len(tree.branches) for tree in trees} == {1, 2, 3, 4, 5}
    assert any(not branch.loss_mask.any() for tree in trees for branch in tree.branches)


@pytest.mark.slow
def test_numbers_of_all_trees_are_those_of_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    trees = [wide_tree(rng, number) for number in range(1100)]
    write_trees(tmp_path / "t.arrow", trees, "key")
    store = TreeStore(tmp_path / "t.arrow")
    for place, tree in enumerate(trees):
        prompt = len(tree.prompt)
        seen = sum(range(1, prompt + 1))
        for branch in tree.branches:
            seen += sum(range(prompt + 1, prompt + len(branch.ids) + 1))
        labels = sum(sum(branch.loss_mask.tolist()) for branch in tree.branches)
        tokens = prompt + sum(len(branch.ids) for branch in tree.branches)
        assert (store.tokens[place], store.labels[place], store.attended[place]) == (tokens, labels, seen)
        assert (tree.tokens, tree.labels, tree.attended) == (tokens, labels, seen)
        assert store.unshared_tokens[place] == tree.unshared_tokens


def test_a_removed_file_can_still_be_read_by_who_has_it(tmp_path: Path) -> None:
    trees = [wide_tree(np.random.default_rng(2), 0)]
    write_trees(tmp_path / "t.arrow", trees, "key")
    store = TreeStore(tmp_path / "t.arrow")
    (tmp_path / "t.arrow").unlink()
    assert plain(store[0]) == plain(trees[0])


def test_a_file_that_is_none_of_ours_has_no_key(tmp_path: Path) -> None:
    assert stored_key(tmp_path / "none.arrow") is None
    (tmp_path / "t.arrow").write_bytes(b"ARROW1 and then something else")
    assert stored_key(tmp_path / "t.arrow") is None


# Encoding


def one_by_one(row: SFTRow | PreferenceRow, protocol: ChatProtocol, start: int = 0) -> tuple:
    """A row's tree from the protocol's plain way, one dialog and one token at a time."""
    if isinstance(row, SFTRow):
        prompt, completions, level = row.messages[:start], [row.messages[start:]], None
    else:
        prompt, completions, level = row.prompt, row.completions, row.level
    opened = protocol.encode(prompt, row.tools, open_assistant=True).ids
    branches = []
    for completion in completions:
        dialog = (*prompt, *completion)
        whole = protocol.encode(dialog, row.tools)
        assert whole.ids[: len(opened)] == opened
        loss_mask, contrast_mask = [], []
        for kind, turn in list(zip(whole.kinds, whole.turns, strict=True))[len(opened) :]:
            ours = 0 <= turn < len(dialog) and dialog[turn].role == "assistant"
            loss_mask.append(ours and kind in (TokenKind.CONTENT, TokenKind.TERMINATOR))
            contrast_mask.append(ours and kind == TokenKind.CONTENT)
        branches.append((whole.ids[len(opened) :], loss_mask, contrast_mask))
    return row.id, opened, branches, level


@pytest.mark.slow
def test_dialogs_in_chunks_equal_dialogs_one_by_one(
    make_dialog, protocol: ChatProtocol, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("align.tree.encode.CHUNK_ROWS", 7)
    rng = random.Random(1)
    rows = []
    for number in range(60):
        messages, tools = make_dialog(rng, llama3=protocol.name == "llama3")
        rows.append(SFTRow(id=f"d{number}", source="test", messages=messages, tools=tools))
    for train_on in ("final", "all"):
        dropped: Counter[str] = Counter()
        trees = encode_sft(rows, protocol, TreeDataConfig(path=tmp_path), train_on, dropped)
        expected = []
        for each in rows:
            roles = [message.role for message in each.messages]
            asked = 0 if train_on == "all" else max(n for n, role in enumerate(roles) if role in ("user", "system"))
            expected.append(one_by_one(each, protocol, roles.index("assistant", asked)))
        assert [plain(tree) for tree in trees] == expected
        assert not dropped


@pytest.mark.slow
def test_preferences_in_chunks_equal_preferences_one_by_one(
    make_dialog, protocol: ChatProtocol, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("align.tree.encode.CHUNK_ROWS", 7)
    rng = random.Random(2)
    rows = []
    for number in range(60):
        messages, tools = make_dialog(rng, llama3=protocol.name == "llama3")
        first = [message.role for message in messages].index("assistant")
        end = (Message(role="assistant", content=f"{number}"),)
        completions = (messages[first:], end, (*messages[first:], *end))[: rng.choice([2, 3])]
        completions = tuple(tuple(m for m in run if m.role not in ("user", "system")) for run in completions)
        try:
            level = rng.choice(["better", None])
            rows.append(
                PreferenceRow(
                    id=f"d{number}",
                    source="test",
                    prompt=messages[:first],
                    completions=completions,
                    tools=tools,
                    level=level,
                )
            )
        except ValidationError:  # a completion that does not end with the assistant
            continue
    assert len(rows) > 50
    dropped: Counter[str] = Counter()
    trees = encode_preferences(rows, protocol, PreferenceDataConfig(path=tmp_path), dropped=dropped)
    assert [plain(tree) for tree in trees] == [one_by_one(each, protocol) for each in rows]
    assert not dropped


# The prepared file


def test_the_same_rows_are_encoded_once_and_other_rows_or_settings_again(
    tmp_path: Path, chatml_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import align.trainers.data

    encoded = []
    honest = align.trainers.data.encoded

    def counting(*arguments):
        encoded.append(1)
        return honest(*arguments)

    monkeypatch.setattr(align.trainers.data, "encoded", counting)
    protocol = load_protocol(chatml_tokenizer)
    rows, output = tmp_path / "rows.jsonl", tmp_path / "run"
    write_rows(rows, [row(n) for n in range(9)])
    first = [plain(tree) for tree in prepare(rows, output, protocol)]
    dropped = (output / "dropped.json").read_text()
    assert [plain(tree) for tree in prepare(rows, output, protocol)] == first
    assert len(encoded) == 1
    assert (output / "dropped.json").read_text() == dropped
    assert json.loads(dropped) == {
        "rows": 9,
        "tokens": sum(prepare(rows, output, protocol).tokens),
        "dropped": {},
        "inputs": {str(rows): fingerprint(rows)},
        "sources": {str(rows): {"read": 9, "dropped": {}}},
    }

    write_rows(rows, [row(n, "river") for n in range(9)])
    assert [plain(tree) for tree in prepare(rows, output, protocol)] != first
    assert len(encoded) == 2
    assert len(prepare(rows, output, protocol, limit=4)) == 4
    assert len(encoded) == 3
    assert {file.name for file in output.iterdir()} == {TREES, "dropped.json"}


def test_a_limit_takes_the_same_rows_each_time_in_their_order(tmp_path: Path, chatml_tokenizer) -> None:
    protocol = load_protocol(chatml_tokenizer)
    write_rows(tmp_path / "a.jsonl", [row(n) for n in range(10)])
    write_rows(tmp_path / "b.jsonl", [row(n) for n in range(10, 30)])
    data = PreferenceDataConfig(path=(tmp_path / "a.jsonl", tmp_path / "b.jsonl"), limit=12)

    def ids(name: str, seed: int) -> list[int]:
        training = TrainingConfig(output_dir=tmp_path / name, seed=seed)
        return [int(tree.id.removeprefix("p")) for tree in preference_trees(data, training, protocol)]

    chosen = ids("one", 0)
    assert chosen == ids("two", 0) == sorted(chosen)
    assert len(chosen) == 12
    assert chosen != ids("three", 1)
    assert min(chosen) < 10 <= max(chosen)


def test_an_id_of_two_different_rows_is_named_and_leaves_no_trees(tmp_path: Path, chatml_tokenizer) -> None:
    write_rows(tmp_path / "a.jsonl", [row(n) for n in range(10)])
    write_rows(tmp_path / "b.jsonl", [row(10), row(4, "another text"), row(11)])
    data = PreferenceDataConfig(path=(tmp_path / "a.jsonl", tmp_path / "b.jsonl"))
    with pytest.raises(RowError) as caught:
        preference_trees(data, TrainingConfig(output_dir=tmp_path / "run"), load_protocol(chatml_tokenizer))
    assert str(caught.value) == (
        f"{tmp_path}/b.jsonl:2: id: 'p4' is already the id of another row, {tmp_path}/a.jsonl:5. "
        "Give each row its own id."
    )
    assert not list((tmp_path / "run").iterdir())


def test_rows_over_the_budget_that_stand_alone_are_reported(
    tmp_path: Path, chatml_tokenizer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = load_protocol(chatml_tokenizer)
    write_rows(tmp_path / "rows.jsonl", [row(1), row(2, "capital of France " * 9)])
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    with caplog.at_level("INFO", "align"):
        trees = prepare(tmp_path / "rows.jsonl", tmp_path / "run", protocol, token_budget=60, over_budget="alone")
    assert len(trees) == 2
    line = f"1 rows over token_budget make a packed row each, the largest of {trees.tokens.max()} tokens"
    assert line in caplog.text


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_leaves_nothing_half(tmp_path: Path, chatml_tokenizer) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import numpy as np
from align.tree.encode import PromptTree, Segment
from align.tree.store import write_trees

def trees():
    for number in range(5000):
        if number == 4500:
            print("killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        ids, mask = np.arange(3, dtype=np.int32), np.ones(3, bool)
        yield PromptTree(str(number), ids, (Segment(ids, mask, mask),))

write_trees(Path(sys.argv[1]), trees(), "key")
"""
    output = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", code, str(output / TREES)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == "killed\n"
    left = [file.name for file in output.iterdir()]
    assert left, "it had begun to write"
    assert TREES not in left
    write_rows(tmp_path / "rows.jsonl", [row(n) for n in range(9)])
    assert len(prepare(tmp_path / "rows.jsonl", output, load_protocol(chatml_tokenizer))) == 9
    assert {file.name for file in output.iterdir()} == {TREES, "dropped.json"}, "what was left half is gone"


@pytest.mark.slow
def test_a_second_process_waits_and_reads_the_same_file(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [row(n) for n in range(40)])
    output = tmp_path / "run"
    write_trees(output / TREES, [wide_tree(np.random.default_rng(3), 0)], "of other rows")
    arguments = command(tiny_checkpoint, tmp_path / "rows.jsonl", output)
    environment = os.environ | {"WORLD_SIZE": "2"}
    waiting = subprocess.Popen(arguments, env=environment | {"RANK": "1"}, stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    writing = subprocess.run(arguments, env=environment | {"RANK": "0"}, capture_output=True, text=True)
    assert writing.returncode == 0, writing.stderr
    said, _ = waiting.communicate(timeout=120)
    assert said.splitlines()[0] == writing.stdout.splitlines()[0]
    assert said.startswith("40 ")


def test_a_process_that_waits_long_says_for_whom(
    tmp_path: Path, chatml_tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import align.trainers.data

    class EnoughError(Exception):
        pass

    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise EnoughError

    write_rows(tmp_path / "rows.jsonl", [row(1)])
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(align.trainers.data, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(align.trainers.data.time, "sleep", sleep)
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    with pytest.raises(EnoughError):
        prepare(tmp_path / "rows.jsonl", tmp_path / "run", load_protocol(chatml_tokenizer))
    assert f"rank 3 has waited 0 s for rank 0 to encode the rows into {tmp_path}/run/{TREES}. Every" in caplog.text


def test_sft_trees_depend_on_what_is_trained(tmp_path: Path, chatml_tokenizer) -> None:
    protocol = load_protocol(chatml_tokenizer)
    dialog = [Message(role=role, content="so") for role in ("user", "assistant", "user", "assistant")]
    write_rows(tmp_path / "rows.jsonl", [SFTRow(id="d", source="test", messages=tuple(dialog))])
    data, training = TreeDataConfig(path=tmp_path / "rows.jsonl"), TrainingConfig(output_dir=tmp_path / "run")
    final = sft_trees(data, training, protocol, SFTConfig(train_on="final"))
    every = sft_trees(data, training, protocol, SFTConfig(train_on="all"))
    assert every.labels[0] == 2 * final.labels[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path, tiny_checkpoint: Path) -> None:
    peaks = []
    for count in (2_000, 20_000):
        write_rows(tmp_path / f"{count}.jsonl", (row(n, "longest river of Italy " * (n % 9)) for n in range(count)))
        arguments = command(tiny_checkpoint, tmp_path / f"{count}.jsonl", tmp_path / f"run-{count}")
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found, peak = done.stdout.splitlines()
        assert found.startswith(f"{count} ")
        peaks.append(int(peak) / 1024)
    assert peaks[1] - peaks[0] < 40, f"{peaks} MiB"
