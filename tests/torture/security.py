"""Attacks at full length: control tokens that somebody typed, and a checkpoint that somebody else wrote.

    pytest -s tests/torture/security.py                  # about ten minutes; TORTURE_SEED=n for other dialogs

Control tokens are in every place of a dialog, in a hundred thousand dialogs over all protocols and call syntaxes. Each
dialog has a twin of the same structure in which every typed text is `x`. The two must have the same control tokens, of
the same kind and of the same turns: then no typed text has become one. `tests/align/chat/test_protocols.py` runs some
of them.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from align.chat import ChatProtocol, TokenKind, load_protocol
from align.chat.calls import CallSyntax
from align.chat.protocol import Dialog
from align.jsonl import write_rows
from align.manifest import SEAL, read_manifest, write_folder_manifest
from align.rows import Message, SFTRow, ToolCall
from tests.processes import ZERO3, Started

SEED = int(os.environ.get("TORTURE_SEED", "1"))
CASES = 100_000
SYNTAXES: dict[str, tuple[CallSyntax, ...]] = {
    "chatml": ("hermes", "json", "function_tag", "python_list"),
    "llama3": ("json", "function_tag", "python_list"),
}
PAIRS = [(protocol, syntax) for protocol, syntaxes in SYNTAXES.items() for syntax in syntaxes]
_CHUNK = 500


class Case(NamedTuple):
    dialog: Dialog
    twin: Dialog
    """The same dialog, in which nothing was typed."""


class Result(NamedTuple):
    written: int
    refused: int
    """Dialogs that the syntax has no form for, such as a name with a space."""
    typed: int
    """Control tokens that were typed in their texts."""


class _Typist:
    """Draws texts out of control tokens and their pieces; `plain` writes `x` for each."""

    def __init__(self, rng: random.Random, tokens: list[str]) -> None:
        halves = [part for token in tokens for part in (token[: len(token) // 2], token[len(token) // 2 :]) if part]
        split = [token[:2] + "\u200b" + token[2:] for token in tokens]
        escaped = [json.dumps(token)[1:-1].replace("<", "\\u003c").replace("|", "\\u007c") for token in tokens]
        html = [token.replace("<", "&lt;").replace(">", "&gt;") for token in tokens]
        around = [
            " ",
            "\n",
            "\n\n",
            "\r\n",
            "\t",
            "\x00",
            "a",
            "é",
            "🙂",
            "e\u0301",
            "{{ x }}",
            "{% raw %}",
            '"',
            "\\",
            "'",
        ]
        headers = [
            "system\n",
            "assistant",
            "ipython",
            "<tool_call>",
            "</tool_call>",
            "<think>",
            "<function=f>",
            "[f(",
            ")]",
        ]
        self.rng = rng
        self.parts = [*tokens * 3, *halves, *split, *escaped, *html, *map(str.upper, tokens), *around, *headers]

    def text(self) -> str:
        return "".join(self.rng.choices(self.parts, k=self.rng.randint(1, 6)))

    def name(self) -> str:
        return self.rng.choice(["f", "look_up", "größe", *(f"f{self.text()}" for _ in range(2)), self.text()])


def cases(rng: random.Random, tokens: list[str], *, parallel: bool) -> Iterator[Case]:
    """Dialogs with typed tokens in contents, results, names, calls, schemas and their keys, each with its twin."""
    typist = _Typist(rng, tokens)
    while True:
        yield _case(rng, typist, parallel=parallel)


def _case(rng: random.Random, typist: _Typist, *, parallel: bool) -> Case:
    typed: list[Message] = []
    plain: list[Message] = []

    def say(role: str, **more: object) -> None:
        text = typist.text()
        typed.append(Message(role=role, content=text, **more))  # type: ignore[arg-type]
        plain.append(Message(role=role, content="x"))  # type: ignore[arg-type]

    if rng.random() < 0.5:
        say("system")
    say("user")
    if rng.random() < 0.7:
        calls = [_call(rng, typist) for _ in range(rng.randint(1, 3) if parallel else 1)]
        # No text before a call: a syntax may not have a form for that.
        typed.append(Message(role="assistant", tool_calls=tuple(calls)))
        plain.append(Message(role="assistant", tool_calls=tuple(ToolCall(name="f") for _ in calls)))
        for call in calls:
            say("tool", name=call.name)
    say("assistant")
    say("user")
    opened = rng.random() < 0.3
    if not opened:
        say("assistant")
    tools = [_schema(rng, typist) for _ in range(rng.randint(0, 2))]
    offered = json.dumps([{"name": "f"}] * len(tools)) if tools else ""
    listed = json.dumps(tools, ensure_ascii=rng.random() < 0.5) if tools else ""
    return Case(Dialog(typed, listed, opened), Dialog(plain, offered, opened))


def _call(rng: random.Random, typist: _Typist) -> ToolCall:
    values = [typist.text(), [typist.text(), 1, None], {typist.text(): {"deep": typist.text()}}, 2.5, True]
    keys = ["a", "b", typist.text(), typist.name()]
    return ToolCall(
        name=typist.name(), arguments={rng.choice(keys): rng.choice(values) for _ in range(rng.randint(0, 3))}
    )


def _schema(rng: random.Random, typist: _Typist) -> dict:
    key = rng.choice(["a", typist.text()])
    inner = {
        "type": rng.choice(["string", typist.text()]),
        "description": typist.text(),
        "enum": [typist.text() for _ in range(rng.randint(0, 3))],
        "default": typist.text(),
        typist.text(): {typist.text(): [typist.text()]},
    }
    parameters = {"type": "object", "properties": {key: inner}, "required": [key], typist.text(): typist.text()}
    return {"name": typist.name(), "description": typist.text(), "parameters": parameters}


def check(protocol: ChatProtocol, seed: int, count: int) -> Result:
    """Raise AssertionError, naming the case, where a typed text has become a control token or was changed."""
    tokenizer = protocol.tokenizer
    own = set(protocol._own_tokens.ids.values())  # markers, such as <think>: an assistant may write them
    control = set(tokenizer.added_tokens_decoder) - own
    tokens = [str(token) for number, token in tokenizer.added_tokens_decoder.items() if number in control]
    rng = random.Random(f"{seed} {protocol.name} {protocol.syntax}")
    drawn = cases(rng, tokens, parallel=protocol.syntax in ("hermes", "python_list"))
    written = refused = typed = done = 0
    while done < count:
        chunk = list(islice(drawn, min(_CHUNK, count - done)))
        found = protocol.encode_dialogs([case.dialog for case in chunk])
        expected = protocol.encode_dialogs([case.twin for case in chunk])
        for place, case in enumerate(chunk):
            where = f"seed {seed}, {protocol.name}, {protocol.syntax}, case {done + place}: {case.dialog}"
            if place in found.refused:
                refused += 1
                continue
            assert _placed(found, place, control) == _placed(expected, place, control), where
            _check_last_question(protocol, found, place, case, where)
            written += 1
            said = json.dumps([message.model_dump() for message in case.dialog.messages], ensure_ascii=False)
            typed += sum((said + case.dialog.tools).count(token) for token in tokens)
        done += len(chunk)
    return Result(written, refused, typed)


def _placed(found, place: int, control: set[int]) -> list[tuple[int, int, int]]:
    """Id, kind and turn of each control token of a dialog, in order."""
    span = slice(found.starts[place], found.starts[place + 1])
    columns = zip(found.ids[span].tolist(), found.kinds[span].tolist(), found.turns[span].tolist(), strict=True)
    return [entry for entry in columns if entry[0] in control]


def _check_last_question(protocol: ChatProtocol, found, place: int, case: Case, where: str) -> None:
    """The last user message is encoded as it was typed; tools may be listed in the first one."""
    messages = case.dialog.messages
    turn = max(number for number, message in enumerate(messages) if message.role == "user")
    span = slice(found.starts[place], found.starts[place + 1])
    mine = (found.turns[span] == turn) & (found.kinds[span] == TokenKind.CONTENT)
    text = protocol.tokenizer.backend_tokenizer.decode(found.ids[span][mine].tolist(), skip_special_tokens=False)
    assert text == messages[turn].content, where


@pytest.fixture(scope="module", params=["made for tests", "SmolLM2"])
def tokenizer(request: pytest.FixtureRequest) -> Callable:
    """The tokenizer of a protocol, by its name."""

    def find(name: str):
        if request.param == "made for tests":
            return request.getfixturevalue(f"{name}_tokenizer")
        if name != "chatml":
            pytest.skip("SmolLM2 has the control tokens of chatml")
        from transformers import AutoTokenizer

        from align.assets import starting_checkpoint

        return AutoTokenizer.from_pretrained(starting_checkpoint())

    return find


@pytest.mark.parametrize("name, syntax", PAIRS)
def test_typed_control_tokens_stay_text_everywhere(name: str, syntax: CallSyntax, tokenizer: Callable) -> None:
    began = time.monotonic()
    share = -(-CASES // (len(PAIRS) + len(SYNTAXES["chatml"])))  # all of these tests together draw CASES
    found = check(load_protocol(tokenizer(name), name, syntax), SEED, share)
    typed = f"{found.written:,} dialogs with {found.typed:,} typed control tokens, none became one"
    refused = f"{found.refused:,} have no form in this syntax"
    print(f"\n{name:8}{syntax:14}seed {SEED}: {typed}; {refused}  ({time.monotonic() - began:.0f} s)")
    assert found.written > share / 4
    assert found.typed > share


@pytest.mark.engine
def test_a_foreign_zero3_state_with_a_fitting_manifest_runs_no_code(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A real ZeRO-3 run over two processes is killed; one of its states is replaced, and the folder sealed again."""
    rows = [SFTRow(id=f"r{n}", source="t", messages=(Message(role="user", content=f"What is {n}?"),
                   Message(role="assistant", content=f"It is {n}."))) for n in range(24)]  # fmt: skip
    write_rows(tmp_path / "rows.jsonl", rows)
    config, output, mark = tmp_path / "sft.yaml", tmp_path / "run", tmp_path / "code ran"
    config.write_text(
        f"model: {{path: {tiny_checkpoint}}}\ndata: {{path: {tmp_path / 'rows.jsonl'}, token_budget: 256}}\n"
        f"training: {{output_dir: {output}, batch_size: 4, epochs: 4, save_steps: 2, precision: fp32}}\n"
    )
    command = [*ZERO3, "recipes/sft.py", str(config)]
    started = Started(command)
    started.wait_for((output / "checkpoint-4" / SEAL).exists)
    started.kill()
    for folder in output.glob("checkpoint-*"):
        if not (folder / SEAL).exists():
            continue
        manifest = read_manifest(folder)
        for name in manifest["files"]:
            if name.endswith("optim_states.pt"):
                state = torch.load(folder / name, weights_only=False)
                torch.save({**state, "more": _Code(mark)}, folder / name)
        notes = {name: value for name, value in manifest.items() if name not in ("format", "blake3", "files")}
        write_folder_manifest(folder, [folder / name for name in manifest["files"]], notes)
    again = Started(command)
    assert again.wait() != 0
    assert "has optimizer states that could run code" in again.output, again.output[-3000:]
    assert not mark.exists()


class _Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)
