"""Several processes in one output folder: the same settings may join, others are refused, one of them writes."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.errors import ConfigError
from align.files import sole_writer
from align.sampling.workers import joined, turn_to_write

SETTINGS = {"k": 4}


def workers_on(folder: Path, settings: dict[str, int] = SETTINGS) -> Any:
    return joined(folder, "output_dir", settings, last_file="last.json")


def test_the_same_settings_may_join_and_the_locks_are_deleted_by_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with workers_on(folder):
        with workers_on(folder):
            assert (folder / ".lock").exists()
        with workers_on(folder):
            (folder / "rows").touch()
    assert [path.name for path in folder.iterdir()] == ["rows"]
    with workers_on(tmp_path / "nothing written"):
        pass
    assert not (tmp_path / "nothing written").exists()


def test_other_settings_and_other_recipes_are_refused(tmp_path: Path) -> None:
    with workers_on(tmp_path):
        with pytest.raises(ConfigError) as caught, workers_on(tmp_path, {"k": 5}):
            pass
        assert str(caught.value).startswith(f"output_dir: {tmp_path}: another run with other settings is writing to it")
        assert str(caught.value).endswith("Give all processes the same command, or name another folder.")
        with (
            pytest.raises(ConfigError, match=r"another run is writing to it \(process \d+ on [^)]+\)"),
            sole_writer(tmp_path),
        ):
            pass
    with (
        sole_writer(tmp_path),
        pytest.raises(ConfigError, match=r"another run is writing to it \(process \d+ on [^)]+\)"),
        workers_on(tmp_path),
    ):
        pass
    with workers_on(tmp_path, {"k": 5}):  # after the others have left
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output_dir: .*/file: is a file, and a folder is expected"):
        workers_on(tmp_path / "file").__enter__()


def test_one_of_those_that_end_together_writes_and_the_next_one_if_it_fails(tmp_path: Path) -> None:
    (tmp_path / "last.json").write_text("of an earlier run")
    everyone_is_there = threading.Barrier(4)
    attempts: list[int] = []

    def process(number: int) -> None:
        with workers_on(tmp_path) as workers:
            everyone_is_there.wait(10)
            with turn_to_write(workers) as is_first:
                if is_first:
                    attempts.append(number)
                    if len(attempts) == 1:
                        return  # as a process that is killed before it has written the last file
                    (tmp_path / "new").write_text(str(number))
                    (tmp_path / "new").rename(tmp_path / "last.json")

    threads = [threading.Thread(target=process, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(attempts) == 2
    assert (tmp_path / "last.json").read_text() == str(attempts[1])
    assert [path.name for path in tmp_path.iterdir()] == ["last.json"]


@pytest.mark.slow
def test_recipes_that_work_in_one_process_refuse_a_launcher_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes import best_of_n, build_data, run_eval

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"launch: 2 processes were started, and recipes/run_eval.py works in one\. "):
        run_eval.run(SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"recipes/best_of_n.py works in one"):
        best_of_n.run(SimpleNamespace())  # type: ignore[arg-type]
    builder = r"and the builder sft_mix of recipes/build_data.py works in one\. Start it without a launcher: python "
    with pytest.raises(ConfigError, match=builder):
        build_data.run(SimpleNamespace(builder="sft_mix"))  # type: ignore[arg-type]
