"""Text to plain values: YAML 1.2's core schema, and what is refused, with file and line."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from align.errors import ConfigError
from align.strict_yaml import MAX_BYTES, parse_value, parse_yaml, read_yaml


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    "written, value",
    [
        ("0", 0), ("-0", 0), ("+12", 12), ("0x1F", 31), ("0o17", 15), ("1.", 1.0), ("-.5", -0.5), ("1e5", 1e5),
        ("1E-5", 1e-5), ("12e03", 12e3), (".inf", math.inf), ("-.INF", -math.inf), ("1e400", math.inf),
        ("true", True), ("False", False), ("TRUE", True), ("~", None), ("null", None), ("", None),
    ],
)  # fmt: skip
def test_the_core_schema_is_read(written: str, value: object) -> None:
    found = parse_yaml(f"a: {written}\n", "f.yaml")[0]["a"]
    assert found == value
    assert type(found) is type(value)
    assert parse_value(written, "") == value
    assert parse_yaml(f"a: '{written}'\n", "f.yaml")[0] == {"a": written}, "quoted, it is text"


@pytest.mark.parametrize(
    "written",
    ["on", "off", "yes", "No", "y", "=", ".", "+", "0x", "e5", "1e", "tRUE", "nan", "inf", "010", "00", "07"],
)
def test_words_and_numbers_that_yaml_1_2_does_not_have_are_text(written: str) -> None:
    assert parse_yaml(f"a: {written}\n", "f.yaml")[0] == {"a": written}
    assert parse_value(written, "") == written


@pytest.mark.parametrize(
    "written",
    ["0b11", "0X1F", "0O17", "1_000", "1:30", "1:30:00.5", "2024-13-45", "2024-01-02", "2001-12-14t21:59:43.10-05:00"],
)
def test_numbers_of_yaml_1_1_and_dates_are_text(written: str) -> None:
    assert parse_yaml(f"a: {written}\n", "f.yaml")[0] == {"a": written}
    assert parse_value(written, "") == written


def test_not_a_number_is_one_value() -> None:
    assert math.isnan(parse_yaml("a: .nan\n", "f.yaml")[0]["a"])


def test_keys_are_their_text() -> None:
    values, lines = parse_yaml("on: 1\n1: 2\n'null': {010: 3}\n<<: {a: 4}\n", "f.yaml")
    assert values == {"on": 1, "1": 2, "null": {"010": 3}, "<<": {"a": 4}}, "merge keys are no feature here"
    assert lines[("null", "010")] == 3


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a: 1\nb: !!int 3\n", "f.yaml:2: b: tags (!!int) are not supported. Write a plain value."),
        ("a: !!timestamp x\n", "f.yaml:1: a: tags (!!timestamp) are not supported. Write a plain value."),
        ("a: ! x\n", "f.yaml:1: a: tags (!) are not supported. Write a plain value."),
        ("a: !mine [x]\n", "f.yaml:1: a: tags (!mine) are not supported. Write a plain value."),
        ("!!map {a: 1}\n", "f.yaml:1: tags (!!map) are not supported. Write a plain value."),
        ("!!int 3: x\n", "f.yaml:1: a key must be one line of text. Write `key: value`."),
        ("a: {[b]: 1}\n", "f.yaml:1: a: a key must be one line of text. Write `key: value`."),
        ("? {a: b}\n: 1\n", "f.yaml:1: a key must be one line of text. Write `key: value`."),
        ("? |\n  a\n  b\n: 1\n", "f.yaml:1: a key must be one line of text. Write `key: value`."),
        ("a: {b: 1, b: 2}\n", "f.yaml:1: a.b: is given twice (first in line 1). Keep one of them."),
        ("1: a\n'1': b\n", "f.yaml:2: 1: is given twice (first in line 1). Keep one of them."),
        ("a: 1\n---\nb: 1\n", "f.yaml:2: a second document (---) begins here. Keep one document in a file."),
        ('a: "x\\0y"\n', "f.yaml:1: a: holds a NUL character. Take it out."),
        ('"x\\0y": 1\n', "f.yaml:1: holds a NUL character. Take it out."),
    ],
)
def test_what_is_not_supported_is_refused_with_its_line(text: str, expected: str) -> None:
    assert refused(text) == expected


def test_an_integer_of_thousands_of_digits_is_refused() -> None:
    for digits in (f"-{5000 * '9'}", 5000 * "9", "0x" + 5000 * "f", 5000 * "0"):
        assert "f.yaml:1: a: is a number of 500" in refused(f"a: {digits}\n")


def test_half_a_character_is_refused() -> None:
    assert "f.yaml:2: b: holds '\\ud83d', which is half of a character" in refused('a: 1\nb: "\\ud83d"\n')
    with pytest.raises(ConfigError, match=r"k: holds '\\udcf6', which is half of a character or a byte that is not"):
        parse_value("Schr\udcf6dinger", "command line: k")  # how Python gives a Latin-1 byte of the command line


def test_a_control_character_is_refused_with_its_line() -> None:
    assert refused("a: 1\nb: \x01\n").startswith("f.yaml:2: is not YAML: unacceptable character #x0001")


@pytest.mark.slow
def test_depth_and_size_are_refused_before_time_is_spent() -> None:
    began = time.monotonic()
    assert "is nested more than 32 deep" in refused("a: " + 100_000 * "[")
    assert "is nested more than 32 deep" in refused("a: " + 30_000 * "{b: ")
    assert "is nested more than 32 deep" in refused(10_000 * "- " + "a")
    assert "has more than 131072 characters" in refused("a: 1\n" * MAX_BYTES)
    assert time.monotonic() - began < 5
    assert parse_yaml("a: " + 30 * "[" + 30 * "]", "f.yaml")[0]["a"], "what a person writes is read"


def test_a_file_that_is_not_utf_8_is_refused_with_the_line(tmp_path: Path) -> None:
    def explanation(content: bytes) -> str:
        path = tmp_path / "f.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            read_yaml(path)
        return str(caught.value).replace(f"{tmp_path}/", "")

    text = "a: 1\n# Schr\u00f6dinger\n"
    assert explanation(text.encode("latin-1")) == "f.yaml:2: is not UTF-8 (byte 0xf6). Save the file as UTF-8."
    assert explanation(text.encode("utf-16")) == "f.yaml:1: is not UTF-8 (byte 0xff). Save the file as UTF-8."
    assert "f.yaml:1: is not YAML" in explanation(text.encode("utf-16-le").replace(b"\xf6", b"o"))
    assert explanation(b"a: 1\n" * MAX_BYTES).startswith("f.yaml: has more than 128 KiB; a config has a few.")
    assert explanation(b"a: \x00\n").startswith("f.yaml:1: is not YAML: unacceptable character #x0000")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\nb: \xc3\xb6\n")
    assert read_yaml(path) == ({"a": 1, "b": "\u00f6"}, {("a",): 1, ("b",): 2})


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path, "is a folder, and a config file is expected"),
        (Path("a\0b"), "is not a path"),
        (tmp_path / "x", "No such file"),
    ):
        with pytest.raises(ConfigError, match=expected):
            read_yaml(path)
    with pytest.raises(ConfigError, match="has more than 128 KiB"):
        read_yaml(Path("/dev/zero"))


@pytest.mark.parametrize(
    "text, value",
    [("[a, 2]", ["a", 2]), ("{a: 1e-5}", {"a": 1e-5}), ('"on"', "on"), ("'1'", "1"), ("[]", []), ("", None)]
    + [(text, text) for text in ("*.jsonl", "&x", "!!int 3", "a: b", "# c", "a # b", "- a", "[a", "[1] x", "%x", "|")],
)
def test_on_the_command_line_only_brackets_and_quotes_are_yaml(text: str, value: object) -> None:
    assert parse_value(text, "") == value
