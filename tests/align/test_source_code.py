"""Which source files a result depends on: its own imports, also those inside functions, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from align import source_code
from align.manifest import code_fingerprint
from align.settings import BACKENDS, SamplingConfig, SamplingServerConfig, backend_module, unused_backends
from align.source_code import code_changes, code_of, libraries_of

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_recipe_is_made_of_what_it_imports_and_of_nothing_else() -> None:
    dpo = code_of(ROOT / "recipes" / "dpo.py")
    assert {"recipes/dpo.py", "align/losses.py", "align/trainers/dpo.py", "align/tree/pack.py"} <= dpo.keys()
    assert not [name for name in dpo if name.startswith(("data_builders/", "eval/"))]
    mix = code_of("data_builders.quality.mix")
    assert {"data_builders/quality/mix.py", "data_builders/row_set.py", "align/jsonl.py"} <= mix.keys()
    assert not [name for name in mix if "losses" in name or "trainers" in name or "generation" in name]
    everything = code_of()
    assert dpo.keys() | mix.keys() < everything.keys()
    assert len(everything) > 150


@pytest.mark.slow
def test_pins_of_packaged_sources_are_part_of_what_reads_them() -> None:
    assert "align/assets.py" in code_of("data_builders.rehearsal.builder")
    assert "align/assets.py" not in code_of("data_builders.annotation.store")


@pytest.mark.slow
def test_code_that_is_named_and_not_imported_counts() -> None:
    assert "align/tools/sandbox/worker.py" in code_of("align.tools.sandbox.namespaces")  # started by its path
    assert "data_builders/tool_use/domains/physics.py" in code_of(
        "data_builders.tool_use.templates"
    )  # imported by an f-string's name


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small project: recipes/train.py imports align.loop inside a function, which imports align.loss."""
    for name, text in {
        "align/__init__.py": "",
        "align/loop.py": "from align.loss import loss\n",
        "align/loss.py": "def loss(x):\n    return x\n",
        "align/other.py": "",
        "recipes/train.py": "def run():\n    import align.loop\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(source_code, "ROOT", tmp_path)
    source_code._module_files.cache_clear()
    source_code._parsed.cache_clear()
    yield tmp_path
    source_code._module_files.cache_clear()
    source_code._parsed.cache_clear()


def test_an_edit_changes_the_hash_of_what_imports_the_file(project: Path) -> None:
    train = project / "recipes" / "train.py"
    before, fingerprint = code_of(train), code_fingerprint(train)
    assert list(before) == ["align/__init__.py", "align/loop.py", "align/loss.py", "recipes/train.py"]
    (project / "align" / "other.py").write_text("other = 1\n")
    assert code_of(train) == before
    (project / "align" / "loss.py").write_text("def loss(x):  # a comment\n\n    return (x)\n")
    assert code_of(train) == before, "comments and line breaks are no change"
    (project / "align" / "loss.py").write_text("def loss(x):\n    return 2 * x\n")
    assert code_changes(before, code_of(train)) == ["align/loss.py"]
    assert code_fingerprint(train) != fingerprint


def test_code_that_is_not_used_is_left_out_with_its_own_imports_unless_it_is_a_start(project: Path) -> None:
    train = project / "recipes" / "train.py"
    assert list(code_of(train, without=["align.loop"])) == ["align/__init__.py", "recipes/train.py"]
    assert code_of(train, "align.loop", without=["align.loop"]) == code_of(train)
    assert "align/loss.py" in code_of(train, "align.loss", without=["align.loop"])


def test_libraries_are_those_of_other_projects_also_inside_functions_and_named_as_optional(project: Path) -> None:
    (project / "align" / "loss.py").write_text(
        "import json\nimport numpy as np\n"
        "def loss(x):\n    from torch.nn import functional\n    return library('vllm.engine', 'vllm', 'x')\n"
    )
    found = libraries_of(project / "recipes" / "train.py")
    assert {name: names for name, names in found.items() if names} == {"align/loss.py": ("numpy", "torch", "vllm")}
    assert libraries_of(project / "recipes" / "train.py", without=["align.loop"]).keys().isdisjoint({"align/loss.py"})


def test_of_the_backends_only_the_chosen_one_is_part_of_a_unit_of_candidates() -> None:
    """An edit of the backend `server` leaves the units of `vllm`, and all scores, as they are."""
    modules = {name: backend_module(name) for name in BACKENDS}
    assert set(modules) == {"local", "vllm", "server"}

    def backends(*starts: str, without: Sequence[str] = ()) -> list[str]:
        found = code_of(*starts, without=without)
        return [name for name in modules if f"align/generation/{name}.py" in found]

    assert backends("align.sampling.candidates") == ["local", "vllm", "server"]
    for name, module in modules.items():
        others = [other for other in modules.values() if other != module]
        assert backends("align.sampling.candidates", module, without=others) == [name]
    assert backends("align.sampling.scoring") == []


def test_a_stage_has_the_code_of_the_backends_that_its_config_chooses() -> None:
    vllm, server = backend_module("vllm"), backend_module("server")
    served = SamplingConfig(backend="server", server=SamplingServerConfig(base_urls=("http://127.0.0.1:1/v1",)))
    assert unused_backends(SamplingConfig()) == (vllm, server)
    assert unused_backends() == (vllm, server)
    assert unused_backends(SamplingConfig(), {"each": [(SamplingConfig(backend="vllm"),)]}) == (server,)
    assert unused_backends(served, SamplingConfig()) == (vllm,)


def test_code_outside_the_project_is_no_code() -> None:
    assert code_of("torch.nn", "test_source_code", "align_other") == {}


def test_a_file_that_does_not_parse_counts_by_its_bytes(project: Path) -> None:
    (project / "align" / "loss.py").write_text("def (:\n")
    before = code_of(project / "recipes" / "train.py")
    (project / "align" / "loss.py").write_text("def (::\n")
    assert code_changes(before, code_of(project / "recipes" / "train.py")) == ["align/loss.py"]


def test_templates_that_a_module_names_count_and_folders_of_code_do_not(project: Path) -> None:
    (project / "align/loop.py").write_text('TEMPLATES, OTHER = "templates", "parts"\n')
    for name in ("align/templates/page.html", "align/parts/unused.py", "align/parts/unused.html"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("before")
    before = source_code.code_of("align.loop")
    assert list(before) == ["align/__init__.py", "align/loop.py", "align/templates/page.html"]
    (project / "align/templates/page.html").write_text("after")
    assert source_code.code_changes(before, source_code.code_of("align.loop")) == ["align/templates/page.html"]
