"""Makes the shards of the quality pipeline on a cluster of Ray, through Ray Data.

A data set has one row for each missing shard. `map_batches` gives them to a pool of actors, each of which got the steps
once, examines a shard as a local process does, and writes its file into the shared folder. What flows through Ray are
the numbers of shards; rows are read from the sources and stay in the files. Ray starts an actor again that has died,
and gives its shard to another one; a run that was killed continues from the files that are there.

Source: https://docs.ray.io/en/latest/data/data.html
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Self

from align.errors import AlignError
from align.optional import library
from align.reporting import Progress
from data_builders.quality.settings import RayConfig
from data_builders.quality.shards import Make, ShardFiles


class RayEngine:
    """Has shards made by the workers of a cluster. Used in a `with` block, at whose end it leaves the cluster."""

    def __init__(self, config: RayConfig) -> None:
        self._config = config
        self._ray = library("ray", "ray", "quality.ray")
        self._data = library("ray.data", "ray", "quality.ray")

    def __enter__(self) -> Self:
        config = self._config
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
        is_local = config.address is None and "RAY_ADDRESS" not in os.environ
        here: dict[str, Any] = {"num_cpus": config.workers * config.cpus_per_worker, "include_dashboard": False}
        # Workers import the same code: of a checkout, by the paths of this process.
        paths = os.pathsep.join(dict.fromkeys(path or os.getcwd() for path in sys.path))
        self._ray.init(
            address=config.address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": paths}} if is_local else None,
            **(here if is_local else {}),
        )
        self._data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        return self

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()

    def __reduce__(self) -> tuple[Any, ...]:
        return RayEngine, (self._config,)  # goes to the workers with the files, and is not used there

    def __call__(self, files: ShardFiles, make: Make, label: str) -> None:
        """See `Engine`. Raises the AlignError of a shard that cannot be made."""
        missing = [number for number in range(files.count) if not files.is_whole(number, quiet=False)]
        progress = Progress(label, total=files.count, done=files.count - len(missing))
        if missing:
            config = self._config
            units = self._data.from_items([{"unit": number} for number in missing], override_num_blocks=len(missing))
            made = units.map_batches(
                _Worker,
                fn_constructor_args=(files, make),
                batch_size=1,
                compute=self._data.ActorPoolStrategy(size=min(config.workers, len(missing))),
                num_cpus=config.cpus_per_worker,
                num_gpus=config.gpus_per_worker or None,
            )
            for row in made.iter_rows():
                if row["rows"] < 0:  # this process finds the same fault, and raises it
                    files.make(int(row["unit"]), make)
                progress.advance(1)
        progress.close()


class _Worker:
    """Makes shards in an actor."""

    def __init__(self, files: ShardFiles, make: Make) -> None:
        self._files, self._make = files, make

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The rows of each shard of a batch; -1 for one with a fault that a user can fix."""
        return {"unit": batch["unit"], "rows": [self._made(int(number)) for number in batch["unit"]]}

    def _made(self, number: int) -> int:
        try:
            return self._files.make(number, self._make)
        except AlignError:
            return -1
