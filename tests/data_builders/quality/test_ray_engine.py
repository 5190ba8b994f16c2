"""The quality pipeline on two workers of Ray: the same bytes as the local engine, and the same errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from align.errors import ConfigError, RowError
from align.jsonl import write_rows
from data_builders.quality.builder import QualityConfig, build, pipeline_of
from data_builders.quality.results import DECISIONS
from data_builders.quality.settings import RayConfig
from data_builders.quality.shards import ShardFiles
from tests.data_builders.quality.made_rows import random_rows

FILES = ("rows.jsonl", "dropped.jsonl", DECISIONS)
pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ray") / "in.jsonl"
    rows = random_rows(90, seed=1)
    write_rows(path, [*rows, *(row.model_copy(update={"id": f"copy-{row.id}"}) for row in rows[:10])])
    return path


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="requires pip install -e '.[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("no_cluster")
def test_two_workers_write_the_bytes_of_the_local_engine(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QualityConfig(path=source, shard_rows=16)
    whole = build(config, tmp_path / "whole")
    monkeypatch.setattr(ShardFiles, "make", None)  # in this process; the workers import the class themselves
    on_ray = build(config.model_copy(update={"ray": RayConfig(workers=2)}), tmp_path / "ray")
    for name in (*FILES, *(f"{name}.manifest.json" for name in FILES), "card.json"):
        assert (on_ray / name).read_bytes() == (whole / name).read_bytes(), name
    shards = sorted(on_ray.glob("units/*/**/unit-*.arrow"))
    assert len(shards) == 7 + 1 + 7, "rows, candidates of near duplicates, compared pairs"


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("no_cluster")
def test_a_run_continues_on_ray_and_a_bad_row_is_the_same_error(source: Path, tmp_path: Path) -> None:
    config = QualityConfig(path=source, shard_rows=16, duplicates={"near": False})
    whole = build(config, tmp_path / "whole")
    pipeline_of(config, tmp_path / "out").complete()
    gone, *kept = sorted((tmp_path / "out").glob("units/*/unit-*.arrow"))
    times = [shard.stat().st_mtime_ns for shard in kept]
    gone.unlink()
    on_ray = config.model_copy(update={"ray": RayConfig(workers=2)})
    build(on_ray, tmp_path / "out")
    assert [shard.stat().st_mtime_ns for shard in kept] == times, "whole shards are not made again"
    assert (tmp_path / "out/rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()

    (tmp_path / "bad.jsonl").write_text(source.read_text() + '{"id": "bad"}\n')
    with pytest.raises(RowError, match=r"bad\.jsonl:101") as caught:
        build(on_ray.model_copy(update={"path": tmp_path / "bad.jsonl"}), tmp_path / "bad")
    with pytest.raises(RowError) as local:
        build(config.model_copy(update={"path": tmp_path / "bad.jsonl"}), tmp_path / "bad")
    assert str(caught.value) == str(local.value)
    assert not (tmp_path / "bad" / "rows.jsonl").exists()


def test_without_ray_the_message_says_what_to_install(source: Path, tmp_path: Path, hidden_ray: None) -> None:
    with pytest.raises(ConfigError, match=r"quality\.ray: the library ray is required, but not installed.*\[ray\]"):
        build(QualityConfig(path=source, ray=RayConfig()), tmp_path / "out")


@pytest.fixture
def hidden_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray cannot be imported, whether it is installed or not."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)

    class Hidden:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == "ray":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
