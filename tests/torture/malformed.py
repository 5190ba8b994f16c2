"""Two hundred malformed inputs: each is one message of where, what and how, an exit code, and nothing written.

    pytest -s tests/torture/malformed.py

A case is a change of inputs that work: of the config, its command line, the rows, the tools in them, the checkpoint or
its chat template, or a package of assets. `tests/recipes/test_malformed.py` runs a sample.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from align.assets import ASSETS, unpack
from align.config import Recipe, answering, main
from align.files import FolderLock
from tests.recipes.test_user_errors import module_of

ROW = {"id": "r", "source": "t", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
CONFIG = """model:
  path: MODEL
data:
  path: rows.jsonl
training:
  output_dir: out
  batch_size: 2
  max_steps: 1
"""


class Case(NamedTuple):
    """One malformed input."""

    kind: str
    name: str
    place: str
    """A pattern that the message begins with: the file, the line, the key or the field."""
    change: Callable[[Path], list[str]]
    """Changes the inputs in a folder, and returns words for the command line."""
    code: int = 2
    leaves: tuple[str, ...] = ()
    """What a run leaves in its output folder: rows that were right are encoded before the weights are read."""


def cases() -> list[Case]:
    found = [*_configs(), *_words(), *_rows(), *_tools(), *_templates(), *_checkpoints(), *_assets()]
    assert len(found) >= 200
    assert len({(case.kind, case.name) for case in found}) == len(found)
    return found


def _configs() -> list[Case]:
    """Files of configs, as bytes, or as a change of a line."""

    def content(name: str, data: bytes | str, place: str) -> Case:
        data = data.encode() if isinstance(data, str) else data
        return Case("config", name, place, lambda folder: _put(folder / "sft.yaml", data))

    def changed(name: str, old: str, new: str, place: str) -> Case:
        assert old in CONFIG
        return content(name, CONFIG.replace(old, new), place)

    batch, output = "batch_size: 2", "output_dir: out"
    numbers = {
        "zero": "0", "negative": "-1", "fraction": "1.5", "text": "two", "truth": "true", "list": "[2]", "nan": ".nan",
        "infinite": ".inf", "huge": "9" * 30, "octal": "010", "mapping": "{a: 1}",
    }  # fmt: skip
    rates = {"zero": "0", "negative": "-1e-5", "infinite": "1e400", "nan": ".nan", "text": "fast", "truth": "false"}
    sections = {"null byte": '"a\\0b"', "list": "[1]", "text": "x", "number": "3", "truth": "true"}
    return [
        content("empty", "", r"sft\.yaml: model"),
        content("a list", "- a\n- b\n", r"sft\.yaml"),
        content("a text", "hello\n", r"sft\.yaml"),
        content("latin-1", "# caf\xe9\n".encode("latin-1") + CONFIG.encode(), r"sft\.yaml:1"),
        content("utf-16", CONFIG.encode("utf-16"), r"sft\.yaml:1"),
        content("null byte", CONFIG.encode() + b"x: \0\n", r"sft\.yaml"),
        content("tab", CONFIG.replace("  path: MODEL", "\tpath: MODEL"), r"sft\.yaml:2"),
        content("two documents", CONFIG + "---\n" + CONFIG, r"sft\.yaml:\d+"),
        content("alias", CONFIG + "x: &a 1\ny: *a\n", r"sft\.yaml:10: y"),
        content("tag", CONFIG + "x: !!python/object:os.system 1\n", r"sft\.yaml:9: x"),
        content("python tag", CONFIG + "x: !!python/object/apply:os.system [ls]\n", r"sft\.yaml:9: x"),
        content("merge key", CONFIG + "<<: {a: 1}\n", r"sft\.yaml:9"),
        content("key twice", CONFIG + "model: {}\n", r"sft\.yaml:9: model"),
        content("inner key twice", CONFIG + "  seed: 1\n  seed: 2\n", r"sft\.yaml:10: training\.seed"),
        content("key of two lines", CONFIG + '? "a\\nb"\n: 1\n', r"sft\.yaml:9"),
        content("key that is a list", CONFIG + "? [a]\n: 1\n", r"sft\.yaml:9"),
        content("deep", CONFIG + "x: " + "[" * 500 + "]" * 500 + "\n", r"sft\.yaml:9"),
        content("large", CONFIG + "# " + "x" * 200_000 + "\n", r"sft\.yaml"),
        content("open quote", CONFIG + 'x: "abc\n', r"sft\.yaml:\d+"),
        content("open bracket", CONFIG + "x: [1, 2\n", r"sft\.yaml:\d+"),
        content("bad indent", CONFIG + "   x: 1\n", r"sft\.yaml:9"),
        changed("long number", batch, "batch_size: " + "9" * 5000, r"sft\.yaml:7: training\.batch_size"),
        content("unknown section", CONFIG + "learning: {}\n", r"sft\.yaml:9: learning"),
        content("half a character", CONFIG + 'x: "\\ud83d"\n', r"sft\.yaml:9"),
        changed("unknown key", batch, "batchsize: 2", r"sft\.yaml:7: training\.batchsize"),
        changed("missing model", "  path: MODEL\n", "  dtype: float32\n", r"sft\.yaml:\d+: model\.path"),
        changed("no model", "path: MODEL", "path: missing", r"model\.path"),
        changed("model is a file", "path: MODEL", "path: rows.jsonl", r"model\.path"),
        changed("no rows", "rows.jsonl", "missing.jsonl", r"sft\.yaml:4: data\.path|missing\.jsonl"),
        changed("rows are empty", "rows.jsonl", "[]", r"sft\.yaml:4: data\.path"),
        changed("pattern without a match", "rows.jsonl", '"*.parquet"', r"\*\.parquet"),
        changed("output is empty", output, 'output_dir: ""', r"sft\.yaml:6: training\.output_dir"),
        changed("output is a file", output, "output_dir: rows.jsonl", r"(sft\.yaml:6: )?training\.output_dir"),
        changed("output is the model", output, "output_dir: MODEL", r"(sft\.yaml:6: )?training\.output_dir"),
        changed("weight of a source", "rows.jsonl", "{path: rows.jsonl, weight: -1}", r"sft\.yaml:4: data\.path"),
        changed("wrong choice", "batch_size: 2", "schedule: quick", r"sft\.yaml:7: training\.schedule"),
        *(changed(f"batch size {name}", batch, f"batch_size: {value}", r"sft\.yaml:7: training\.batch_size")
          for name, value in numbers.items()),
        *(changed(f"learning rate {name}", batch, f"learning_rate: {value}", r"sft\.yaml:7: training\.learn")
          for name, value in rates.items()),
        *(content(f"section is {name}", f"{CONFIG}sft: {value}\n", r"sft\.yaml:9: sft")
          for name, value in sections.items()),
    ]  # fmt: skip


def _words() -> list[Case]:
    """Words of the command line."""

    def words(name: str, place: str, *given: str) -> Case:
        return Case("command line", name, place, lambda folder: list(given))

    return [
        words("unknown key", r"command line: training\.betas", "training.betas=1"),
        words("no value", "--training\\.seed", "--training.seed"),
        words("negated", "--no-training", "--no-training.checks"),
        words("one dash", "-s", "-s=1"),
        words("spaces", "training\\.seed", "training.seed", "=", "1"),
        words("second file", "other\\.yaml", "other.yaml"),
        words("config option", "--config", "--config", "x.yaml"),
        words("colon", "training\\.seed:1", "training.seed:1"),
        words("empty key", "=1", "=1"),
        words("empty part", "training\\.\\.seed=1", "training..seed=1"),
        words("deep key", "a\\.a", ".".join("a" * 40) + "=1"),
        words("into a number", "training\\.seed\\.a=1", "training.seed=1", "training.seed.a=1"),
        words("index that is missing", "data\\.path\\.9=1", "data.path=[a]", "data.path.9=1"),
        words("negative seed", r"command line: training\.seed", "training.seed=-1"),
        words("large seed", r"command line: training\.seed", f"training.seed={2**70}"),
        words("key twice", "command line", "sft={train_on: all, train_on: final}"),
        words("null byte", r"command line: data\.path", "data.path=a\0b"),
        words("half a character", r"command line: data\.path", "data.path=a\ud83d"),
        words("alias", r"command line: sft", "sft={train_on: *a}"),
        words("infinite", r"command line: training\.warmup_ratio", "training.warmup_ratio=1e400"),
    ]


def _rows() -> list[Case]:
    """Lines of a file of rows, below two that are right."""

    def line(name: str, text: str | bytes, place: str) -> Case:
        data = text.encode() if isinstance(text, str) else text
        good = "".join(json.dumps({**ROW, "id": f"g{n}", "messages": _said(f"q{n}", "a")}) + "\n" for n in range(2))
        return Case("row", name, place, lambda folder: _put(folder / "rows.jsonl", good.encode() + data + b"\n"))

    def row(name: str, change: dict[str, Any], place: str) -> Case:
        values = {key: value for key, value in {**ROW, **change}.items() if value is not Ellipsis}
        return line(name, json.dumps(values), place)

    def messages(name: str, *said: Any, place: str) -> Case:
        return row(name, {"messages": list(said)}, place)

    def file(name: str, path: str, data: bytes, place: str) -> Case:
        def change(folder: Path) -> list[str]:
            return [*_put(folder / path, data), f"data.path={folder / path}"]

        return Case("row", f"file: {name}", place, change)

    user, assistant = _said("q", "a")
    at = r"rows\.jsonl:3"
    return [
        line("not JSON", "{not JSON", at),
        line("broken off", '{"id": "r", "messages": [', at),
        line("a list", "[1, 2]", at),
        line("a text", '"hello"', at),
        line("a number", "17", at),
        line("nan", '{"id": "r", "score": NaN}', at),
        line("key twice", '{"id": "a", "id": "b"}', at),
        line("latin-1", b'{"id": "caf\xe9"}', at),
        line("utf-16", '{"id": "a"}'.encode("utf-16"), at),
        line("null bytes", b'{"id": "a\0"}', at),
        line("half a character", json.dumps({**ROW, "messages": _said("q\ud83d", "a")}), at),
        line("deep", '{"a": ' + "[" * 2000 + "]" * 2000 + "}", at),
        line("very deep", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", at),
        line("two objects", json.dumps(ROW) + json.dumps(ROW), at),
        line("html", "<html></html>", at),
        row("unknown column", {"mesages": 1}, at),
        row("no messages", {"messages": ...}, at),
        row("messages are a text", {"messages": "hello"}, at),
        row("messages are a number", {"messages": 3}, at),
        row("messages are empty", {"messages": []}, at),
        row("id is empty", {"id": ""}, at),
        row("id of another row", {"id": "g1"}, at),
        row("source is a number", {"source": 3.5}, at),
        messages("no role", {"content": "q"}, assistant, place=at),
        messages("unknown role", {"role": "robot", "content": "q"}, assistant, place=at),
        messages("content is a number", {"role": "user", "content": 3}, assistant, place=at),
        messages("content is an object", {"role": "user", "content": {"a": 1}}, assistant, place=at),
        messages("unknown key in a message", {**user, "mood": "good"}, assistant, place=at),
        messages("assistant first", assistant, user, place=at),
        messages("no assistant", user, place=at),
        messages("ends with the user", user, assistant, user, place=at),
        messages("system in the middle", user, {"role": "system", "content": "s"}, assistant, place=at),
        messages("a message is a text", "q", assistant, place=at),
        messages("a message is null", None, assistant, place=at),
        messages("calls of a user", {**user, "tool_calls": [{"name": "f", "arguments": {}}]}, assistant, place=at),
        messages("trained on a user", {**user, "trained": False}, assistant, place=at),
        file("empty", "rows2.jsonl", b"", r"\S*rows2\.jsonl"),
        file("blank lines", "rows2.jsonl", b"\n\n \n", r"\S*rows2\.jsonl"),
        file("gzip cut", "rows2.jsonl.gz", gzip.compress(json.dumps(ROW).encode() * 99)[:40], r"\S*rows2\.jsonl\.gz"),
        file("no gzip", "rows2.jsonl.gz", b"hello\n", r"\S*rows2\.jsonl\.gz"),
        file("no Parquet", "rows2.parquet", b"hello\n", r"\S*rows2\.parquet"),
        file("Parquet cut", "rows2.parquet", b"PAR1" + b"\0" * 50, r"\S*rows2\.parquet"),
        file("a zip", "rows2.jsonl", b"PK\x03\x04" + b"\0" * 50, r"\S*rows2\.jsonl"),
        file("git lfs", "rows2.jsonl", b"version https://git-lfs.github.com/spec/v1\noid x\n", r"\S*rows2\.jsonl"),
        file("array cut", "rows2.json", b'[{"id": "a"},', r"\S*rows2\.json"),
        file("array and text", "rows2.json", b"[] hello", r"\S*rows2\.json"),
        file("array without comma", "rows2.json", b'[{"a": 1} {"a": 2}]', r"\S*rows2\.json"),
        file("one object over lines", "rows2.json", b'{\n"data": []\n}', r"\S*rows2\.json"),
        file("csv header twice", "rows2.csv", b"prompt,prompt\na,b\n", r"\S*rows2\.csv:1"),
        file("csv cells", "rows2.csv", b"prompt,completion\na\n", r"\S*rows2\.csv:2"),
        file("csv open quote", "rows2.csv", b'prompt,completion\n"a,b\n', r"\S*rows2\.csv:2"),
        file("csv by semicolons", "rows2.csv", b"prompt;completion\na;b\n", r"\S*rows2\.csv:1"),
        file("csv null byte", "rows2.csv", b"prompt,completion\na\0,b\n", r"\S*rows2\.csv:2"),
        file("csv utf-16", "rows2.csv", "prompt,completion\na,b\n".encode("utf-16"), r"\S*rows2\.csv"),
    ]


def _tools() -> list[Case]:
    """Schemas of functions in a row, and calls."""

    def row(name: str, tools: Any, calls: Any = None) -> Case:
        user, assistant = _said("q", "a")
        if calls is not None:
            assistant = {"role": "assistant", "content": "", "tool_calls": calls}
        text = json.dumps({**ROW, "tools": tools, "messages": [user, assistant]}) + "\n"
        return Case("tool schema", name, r"rows\.jsonl:1", lambda folder: _put(folder / "rows.jsonl", text.encode()))

    return [
        row("not JSON", "[{"),
        row("an object", '{"name": "f"}'),
        row("a number", 3),
        row("a list of texts", '["f"]'),
        row("without a name", '[{"description": "d"}]'),
        row("name is a number", '[{"name": 3}]'),
        row("name is empty", '[{"name": ""}]'),
        row("name is null", '[{"name": null}]'),
        row("description is a list", '[{"name": "f", "description": ["d"]}]'),
        row("parameters are a text", '[{"name": "f", "parameters": "p"}]'),
        row("parameters are a list", '[{"name": "f", "parameters": [1]}]'),
        row("nan", '[{"name": "f", "parameters": {"default": NaN}}]'),
        row("function is a text", '[{"type": "function", "function": "f"}]'),
        row("a million choices", json.dumps([{"name": "f", "parameters": {"enum": list(range(300_000))}}])),
        row("deep", json.dumps([{"name": "f"}])[:-2] + ', "parameters": ' + '{"a":' * 3000 + "1" + "}" * 3000 + "}]"),
        row("call without a name", "", [{"arguments": {}}]),
        row("call with an empty name", "", [{"name": "", "arguments": {}}]),
        row("arguments are a list", "", [{"name": "f", "arguments": [1]}]),
        row("arguments are no JSON", "", [{"name": "f", "arguments": "{a"}]),
        row("arguments hold nan", "", [{"name": "f", "arguments": '{"a": NaN}'}]),
        row("calls are a text", "", "f()"),
        row("a call is a text", "", ["f()"]),
        row("a call is null", "", [None]),
    ]


def _templates() -> list[Case]:
    """Chat templates of a checkpoint, with `model.chat: native`."""

    def template(name: str, text: Any) -> Case:
        def change(folder: Path) -> list[str]:
            for file in folder.glob("model/chat_template*"):
                file.unlink()
            config = json.loads((folder / "model/tokenizer_config.json").read_text())
            _put(folder / "model/tokenizer_config.json", json.dumps({**config, "chat_template": text}).encode())
            return ["model.chat=native"]

        return Case("template", name, r"(sft\.yaml:\d+: )?model\.(chat|path)|\S*model\b", change)

    loop = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    return [
        template("open block", "{% for m in messages %}"),
        template("unknown tag", "{% frobnicate %}"),
        template("open expression", "{{ messages"),
        template("raises", "{{ raise_exception('no') }}"),
        template("reads attributes", "{{ messages.__class__.__mro__[1].__subclasses__() }}"),
        template("unknown filter", "{{ messages | frobnicate }}"),
        template("divides by zero", "{{ 1 / 0 }}" + loop),
        template("says nothing", "hello"),
        template("leaves answers out", loop.replace("{{ m.content }}", "")),
        template("changes answers", loop.replace("m.content", "m.content | upper")),
        template("is empty", ""),
    ]


def _checkpoints() -> list[Case]:
    """Files of the starting checkpoint."""

    def model(name: str, change: Callable[[Path], object], code: int = 1, *, encoded: bool = False) -> Case:
        def changed(folder: Path) -> list[str]:
            change(folder / "model")
            return []

        leaves = ("out", "out/.precision.json", "out/dropped.json", "out/trees.arrow") if encoded else ()
        return Case("checkpoint", name, r"\S*model\b", changed, code, leaves)

    def put(file: str, data: bytes) -> Callable[[Path], object]:
        return lambda folder: _put(folder / file, data)

    def edited(file: str, **values: Any) -> Callable[[Path], object]:
        def edit(folder: Path) -> None:
            content = json.loads((folder / file).read_text())
            kept = {key: value for key, value in {**content, **values}.items() if value is not Ellipsis}
            _put(folder / file, json.dumps(kept).encode())

        return edit

    def cut(file: str, keep: float) -> Callable[[Path], object]:
        def shorten(folder: Path) -> None:
            data = (folder / file).read_bytes()
            _put(folder / file, data[: int(len(data) * keep)])

        return shorten

    def header(**changes: Any) -> Callable[[Path], object]:
        """Another header of the weights, with the same data."""

        def edit(folder: Path) -> None:
            data = (folder / "model.safetensors").read_bytes()
            (length,) = struct.unpack("<Q", data[:8])
            content = json.loads(data[8 : 8 + length])
            first = next(name for name in content if name != "__metadata__")
            content[first] = {**content[first], **changes}
            text = json.dumps(content).encode()
            _put(folder / "model.safetensors", struct.pack("<Q", len(text)) + text + data[8 + length :])

        return edit

    weights = "model.safetensors"
    return [
        model("no config", lambda folder: (folder / "config.json").unlink(), code=2),
        model("config is no JSON", put("config.json", b"{")),
        model("config is a list", put("config.json", b"[]")),
        model("config is binary", put("config.json", b"\xff\xfe\0")),
        model("config is empty", put("config.json", b"")),
        model("unknown architecture", edited("config.json", architectures=["Nothing"], model_type="nothing")),
        model("no type", edited("config.json", model_type=...)),
        model("code of its own", edited("config.json", auto_map={"AutoModelForCausalLM": "evil.Model"}), code=2),
        model("one layer more", edited("config.json", num_hidden_layers=9), encoded=True),
        model("another width", edited("config.json", hidden_size=128), encoded=True),
        model("width is a text", edited("config.json", hidden_size="wide")),
        model("no weights", lambda folder: (folder / weights).unlink()),
        model("weights are empty", put(weights, b"")),
        model("weights are cut", cut(weights, 0.5)),
        model("weights are text", put(weights, b"hello" * 100)),
        model("weights with a lying length", put(weights, struct.pack("<Q", 2**60) + b"{}")),
        model("tensor beyond the end", header(data_offsets=[0, 2**40])),
        model("tensor of another shape", header(shape=[1, 1])),
        model("tensor of an unknown type", header(dtype="F7")),
        model("pickle in place of weights", lambda folder: (folder / weights).rename(folder / "pytorch_model.bin")),
        model("index names a file outside", put("model.safetensors.index.json",
              json.dumps({"metadata": {}, "weight_map": {"a": "../evil.bin"}}).encode())),
        model("index is no JSON", put("model.safetensors.index.json", b"{")),
        model("no tokenizer", lambda folder: (folder / "tokenizer.json").unlink()),
        model("tokenizer is no JSON", put("tokenizer.json", b"{")),
        model("tokenizer is empty", put("tokenizer.json", b"{}")),
        model("tokenizer is cut", cut("tokenizer.json", 0.5)),
        model("tokenizer config is no JSON", put("tokenizer_config.json", b"{")),
        model("adapter config is no JSON", put("adapter_config.json", b"{")),
        model("manifest is no JSON", put("MANIFEST.json", b"{")),
        model("manifest of other files", put("MANIFEST.json", b'{\n "files": {"a": {"bytes": 1, "blake3": "x"}}}')),
        model("manifest with a path outside",
              put("MANIFEST.json", b'{\n "files": {"../a": {"bytes": 1, "blake3": "x"}}}')),
        model("a folder that is empty", lambda folder: (shutil.rmtree(folder), folder.mkdir()), code=2),
    ]  # fmt: skip


def _assets() -> list[Case]:
    """Packages that pip may bring."""
    asset = replace(ASSETS["countryinfo"], files=("pkg/data.json",))

    def package(name: str, data: bytes, suffix: str = ".whl") -> Case:
        def change(folder: Path) -> list[str]:
            _put(folder / f"package{suffix}", data)
            answering(lambda: unpack(asset, folder / f"package{suffix}", folder / "unpacked"))
            return []

        return Case("asset", name, asset.folder, change, 1)

    def wheel(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for entry, data in entries:
                archive.writestr(entry, data)
        return out.getvalue()

    def sdist(**entry: Any) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            info = tarfile.TarInfo("top/pkg/data.json")
            for name, value in entry.items():
                setattr(info, name, value)
            archive.addfile(info, io.BytesIO(b""))
        return out.getvalue()

    link = zipfile.ZipInfo("pkg/data.json")
    link.external_attr = 0o120777 << 16
    whole = wheel(("pkg/data.json", b"{}"))
    return [
        package("empty", b""),
        package("no zip", b"hello" * 100),
        package("cut", whole[: len(whole) // 2]),
        package("without the file", wheel(("other.json", b"{}"))),
        package("a link", wheel((link, b"/etc/passwd"))),
        package("twice", wheel(("pkg/data.jsom", b"{}"), ("pkg/data.json", b"[]")).replace(b"data.jsom", b"data.json")),
        package("wrong checksum", whole.replace(b"{}", b"[]", 1)),
        package("tar: no gzip", b"hello" * 100, ".tar.gz"),
        package("tar: link", sdist(type=tarfile.SYMTYPE, linkname="/etc/passwd"), ".tar.gz"),
        package("tar: hard link", sdist(type=tarfile.LNKTYPE, linkname="/etc/passwd"), ".tar.gz"),
        package("tar: device", sdist(type=tarfile.CHRTYPE), ".tar.gz"),
        package("tar: FIFO", sdist(type=tarfile.FIFOTYPE), ".tar.gz"),
        package("tar: without the file", sdist(name="top/other"), ".tar.gz"),
    ]


def _said(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _put(path: Path, data: bytes) -> list[str]:
    path.write_bytes(data)
    return []


def check(case: Case, folder: Path, checkpoint: Path, printed: Callable[[], str]) -> str:
    """Run a case in an empty folder, and return its message. Raises AssertionError if the answer is not as promised.

    printed: returns the standard error output since it was last called.
    """
    shutil.copytree(checkpoint, folder / "model")
    rows = [{**ROW, "id": f"r{number}", "messages": _said(f"q{number}", "a")} for number in range(4)]
    _put(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    _put(folder / "sft.yaml", CONFIG.encode())
    module = module_of("sft")
    recipe = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Recipe) and value.__module__ == module.__name__
    )
    before: dict[str, bytes] = {}

    def start() -> None:
        words = case.change(folder)
        _put(folder / "sft.yaml", (folder / "sft.yaml").read_bytes().replace(b"MODEL", b"model"))
        before.update(_content(folder))
        main(recipe, module.run, ["sft.yaml", *words])

    printed()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # A start that is refused after some seconds, as on a machine that is busy, has a first line in starts.jsonl.
        patch.setattr("align.effective_time.FIRST_SECONDS", 600.0)
        with pytest.raises(SystemExit) as left:
            start()
        FolderLock.release_folder(folder / "out")  # as at the end of the process
    said = printed()
    where = f"{case.kind}, {case.name}: code {left.value.code}: {said[-1500:]}"
    assert "Traceback" not in said, where
    assert left.value.code == case.code, where
    message = next((line for line in said.splitlines() if re.match(case.place, line)), "")
    assert re.match(rf"({case.place}).*: .+\. .+[.?]", message), where
    if before:  # a package of assets has no run
        after = _content(folder)
        assert {name: after.get(name) for name in before} == before, case
        assert sorted(after.keys() - before.keys()) == sorted(case.leaves), case
    return message


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind}-{case.name}" for case in CASES])
def test_a_malformed_input_is_one_message(
    case: Case, tmp_path: Path, tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print(check(case, tmp_path, tiny_checkpoint, lambda: capfd.readouterr().err))


def test_how_many_there_are_of_each_kind() -> None:
    counts = Counter(case.kind for case in CASES)
    print(
        f"\n{sum(counts.values())} malformed inputs: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"
    )
    assert min(counts.values()) >= 10
