"""Dialogs about code: run in the real sandbox, and answered with what another way of computing finds."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from align.chat import load_protocol
from align.errors import SandboxError
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import Message, SFTRow
from align.settings import TreeDataConfig
from align.tools.registry import Registry
from align.tools.sandbox.session import Sandbox
from align.tree.encode import encode_sft
from data_builders.tool_use.dialogs import code
from data_builders.tool_use.dialogs.code import Program, interpreter, programs, result_of
from data_builders.tool_use.templates import ToolTemplatesConfig, build


@pytest.fixture(scope="module")
def sandbox() -> None:
    try:
        Sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


def primes_below(n: int) -> list[int]:
    sieve = bytearray([0, 0]) + bytearray([1]) * (n - 2)
    for step in range(2, n):
        sieve[2 * step :: step] = bytes(len(sieve[2 * step :: step]))
    return [number for number in range(n) if sieve[number]]


def fibonacci(n: int) -> int:
    """From powers of the matrix of one step."""
    a, b, c, d, p, q, r, s = 1, 0, 0, 1, 1, 1, 1, 0
    while n:
        if n & 1:
            a, b, c, d = a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s
        p, q, r, s, n = p * p + q * r, p * q + q * s, r * p + s * r, r * q + s * s, n >> 1
    return b


def lcm(numbers: list[int]) -> int:
    return next(n for n in range(max(numbers), 10**9, max(numbers)) if all(n % each == 0 for each in numbers))


def deviation(numbers: list[int]) -> str:
    mean = Fraction(sum(numbers), len(numbers))
    return f"{math.sqrt(sum((each - mean) ** 2 for each in numbers) / len(numbers)):.3f}"


def median(numbers: list[int]) -> str:
    ordered, half = sorted(numbers), len(numbers) // 2
    return str(ordered[half]) if len(ordered) % 2 else str((ordered[half - 1] + ordered[half]) / 2)


def by_length(names: list[str]) -> str:
    lengths = sorted({len(name) for name in names})
    return ", ".join(name for length in lengths for name in sorted(names) if len(name) == length)


def collatz(n: int) -> int:
    return 0 if n == 1 else 1 + collatz(3 * n + 1 if n % 2 else n // 2)


def weekday(day: str) -> str:
    """Sakamoto's way."""
    year, month, number = map(int, day.split("-"))
    year -= month < 3
    place = (
        year + year // 4 - year // 100 + year // 400 + (0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4)[month - 1] + number
    ) % 7
    return ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")[place]


OTHER_WAY: dict[str, Callable[..., Any]] = {
    "sum_of_primes": lambda n: sum(primes_below(n)),
    "digits_of_power": lambda base, exponent: sum(base**exponent // 10**place % 10 for place in range(100)),
    "fibonacci": fibonacci,
    "multiples": lambda first, second, n: n // first + n // second - n // (first * second),
    "common_multiple": lcm,
    "deviation": deviation,
    "median": median,
    "sorted_names": by_length,
    "backwards": lambda text: "".join(text[-place] for place in range(1, len(text) + 1)),
    "days_between": lambda start, end: date.fromisoformat(end).toordinal() - date.fromisoformat(start).toordinal(),
    "weekday": weekday,
    "years_to_double": lambda rate: math.ceil(math.log(2) / math.log(1 + rate / 100)),
    "collatz": collatz,
    "binary": lambda n: bin(n)[2:],
}


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("program", programs(), ids=lambda program: program.name)
def test_every_program_gives_what_another_way_of_computing_gives(program: Program) -> None:
    assert len(set(program.queries)) >= 3
    assert len(set(program.answers)) >= 2
    for seed in range(4):
        drawn = program.drawn(random.Random(seed))
        with interpreter() as runs:
            result = Registry([runs.tool]).call(runs.call({"code": program.lines(drawn)}))
        assert result.ok, result.text
        expected = OTHER_WAY[program.name](**{name: value.value for name, value in drawn.items()})
        assert result_of(result.text) == str(expected), drawn


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_rows_hold_the_run_that_was_made_and_its_result(tmp_path: Path) -> None:
    config = ToolTemplatesConfig(rows={"code": 20}, heldout_rows={}, seed=3)
    folder = build(config, tmp_path / "a")
    rows = list(read_rows(folder / "tools.jsonl", SFTRow))
    assert len(rows) == 20
    for row in rows:
        *_, asked, called, output, said = row.messages
        assert [message.role for message in (asked, called, output, said)] == ["user", "assistant", "tool", "assistant"]
        (call,) = called.tool_calls
        assert call.name == "code_interpreter"
        assert result_of(output.content) in said.content
        with interpreter() as runs:
            assert Registry([runs.tool]).call(call).text == output.content
    again = build(config, tmp_path / "b")
    for name in ("tools.jsonl", "tools.records.jsonl"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
    assert not (folder / "files").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_a_run_is_trained_on_and_its_output_is_not(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    rows = list(
        read_rows(build(ToolTemplatesConfig(rows={"code": 6}, heldout_rows={}), tmp_path) / "tools.jsonl", SFTRow)
    )
    tokenizer = request.getfixturevalue(f"{name}_tokenizer")
    protocol = load_protocol(tokenizer, name)
    data = TreeDataConfig(path=Path(__file__), token_budget=100_000)
    dropped: Counter[str] = Counter()

    def trained(some: list[SFTRow]) -> list[str]:
        trees = encode_sft(some, protocol, data, "all", dropped)
        return [tokenizer.decode(branch.ids[branch.loss_mask]) for tree in trees for branch in tree.branches]

    def other(message: Message) -> Message:
        return message.model_copy(update={"content": "zq " * 40}) if message.role == "tool" else message

    found = trained(rows)
    assert len(found) == len(rows) == 6
    assert not dropped
    assert found == trained([row.model_copy(update={"messages": tuple(map(other, row.messages))}) for row in rows])
    assert all("code_interpreter" in text and "completed" not in text for text in found)


@pytest.mark.slow
def test_without_a_sandbox_the_rows_are_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Sandbox:
        raise SandboxError("sandbox", "no boundary can be had", "Install bubblewrap")

    monkeypatch.setattr(code, "Sandbox", none)
    folder = build(ToolTemplatesConfig(rows={"code": 5, "single": 3}, heldout_rows={}), tmp_path)
    rows = list(read_rows(folder / "tools.jsonl", SFTRow))
    assert {row.source for row in rows} == {"tasks/single"}
    counts = read_data_manifest(folder / "tools.jsonl")["counts"]
    assert counts["dropped"]["code: no sandbox"] == 5
    assert counts["read"] == 5 + 3


def test_what_a_run_gave_is_read_out_of_its_streams() -> None:
    assert result_of("completed\n[stdout]a\nb[/stdout]") == "a\nb"
    assert result_of("completed\n[value]42[/value]") == "42"
    assert result_of("completed") == ""
