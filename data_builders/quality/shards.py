"""Tables in files, one for each shard of the rows: made by any number of processes, memory-mapped when they are read.

A file has a header and an Arrow file (IPC format) behind it. The header says which table it is, and has the BLAKE3 of
what follows, so that a file that is truncated, edited or of another job is made again:

    bytes 0 to 255    {"unit": 3, "work": "9f2c...", "rows": 4096, "blake3": "04be..."} and spaces
    bytes 256 ...     the Arrow file; its columns are read in place

Who makes which table is up to the engine. The local one lets processes claim tables (`align/sampling/work_units.py`);
that of a cluster is `ray_engine.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from blake3 import blake3

from align.errors import StageError
from align.reporting import logger
from align.sampling.work_units import publish, share_units

log = logger(__name__)

_HEADER_BYTES = 256  # a multiple of 64, to which Arrow aligns its buffers


Make = Callable[[int], pa.Table]
"""Makes the table of a shard. It must depend on the shard and on `ShardFiles.work` only."""


class Engine(Protocol):
    """Has the missing tables made, by several processes; then all of them are there."""

    def __call__(self, files: ShardFiles, make: Make, label: str, /) -> None: ...


def claimed_shards(files: ShardFiles, make: Make, label: str) -> None:
    """The local engine: this process makes tables until all are there, and so do the others that call it for the same
    folder, on this machine or on others. Each claims a table before it makes it.
    """

    def made(number: int) -> tuple[bool, str]:
        began = time.monotonic()
        rows = files.make(number, make)
        return True, f"{rows / max(time.monotonic() - began, 1e-9):,.0f} rows/s"

    def look(number: int) -> bool | None:
        return files.is_whole(number, quiet=False) or None

    def look_again(number: int) -> bool | None:
        return files.is_whole(number, quiet=True) or None

    share_units(files.count, look, look_again, made, folder=files.folder, label=label)


class ShardFiles:
    """The tables `unit-00000.arrow` to the last one in a folder."""

    def __init__(self, folder: Path, work: str, count: int, engine: Engine = claimed_shards) -> None:
        """work: a fingerprint of all that the tables depend on. count: how many there are."""
        self.folder, self.count, self.engine = folder, count, engine
        self.work = work

    def complete(self, make: Make, label: str) -> None:
        """Have the tables made that are missing; then all are there. label: of the progress bar."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.engine(self, make, label)

    def make(self, number: int, make: Make) -> int:
        """Make one table, whole or not at all, and return its rows."""
        table = make(number)
        self._write(number, table)
        return len(table)

    def table(self, number: int) -> pa.Table:
        """The table of a shard. Its columns are pages of the file, which are read when they are touched and are not
        copied; they are released with the table.
        """
        content = pa.memory_map(str(self.path(number))).read_buffer().slice(_HEADER_BYTES)
        return pa.ipc.open_file(content).read_all()

    def column(self, number: int, name: str) -> pa.Array:
        """One column of the table of a shard."""
        found = self.table(number).column(name)
        return found.chunk(0) if found.num_chunks else pa.array([], found.type)

    def path(self, number: int) -> Path:
        return self.folder / f"unit-{number:05}.arrow"

    def _write(self, number: int, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        content = sink.getvalue().to_pybytes()
        header = {"unit": number, "work": self.work, "rows": len(table), "blake3": blake3(content).hexdigest()}
        first = json.dumps(header).encode().ljust(_HEADER_BYTES - 1) + b"\n"
        publish(self.path(number), first + content, lambda: self.is_whole(number, quiet=True))

    def is_whole(self, number: int, *, quiet: bool) -> bool:
        """Whether a table is there and is what was written. The log says what is wrong with a file, unless `quiet`."""
        path = self.path(number)
        if not path.exists():
            return False
        fault = self._fault(path, number)
        if fault is not None and not quiet:
            log.warning("%s: %s; the unit is made again", path, fault)
        return fault is None

    def _fault(self, path: Path, number: int) -> str | None:
        """Why a file cannot be used; None if its header and its content agree."""
        try:
            with path.open("rb") as handle:
                first = handle.read(_HEADER_BYTES)
            try:
                header = json.loads(first)
                found = (header["unit"], header["work"])
                expected = header["blake3"]
            except (ValueError, TypeError, KeyError):  # not JSON, not UTF-8, not an object, or other names in it
                return "its beginning is not the header of a unit"
            if found != (number, self.work):
                return "it is another unit, or was made from other rows or settings"
            digest = blake3()
            with path.open("rb") as handle:
                handle.seek(_HEADER_BYTES)
                while block := handle.read(2**22):
                    digest.update(block)
        except OSError as error:
            raise StageError(path, f"cannot be read ({error.strerror})", "Delete it; the unit is made again") from None
        return None if digest.hexdigest() == expected else "its content is not what was written"
