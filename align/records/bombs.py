"""Files that unpack to far more than they hold ("bombs"), refused before their content fills the memory.

Real text shrinks by a factor of 3 to 30. A file that unpacks to hundreds of times its size was made to do so, or holds
the same row over and over:

    gzip      refused from UNPACKED_BYTES on, when more than MOST_RATIO bytes have come of each byte that was read
    Parquet   refused by what its footer says of each group of rows; read in batches that fit into BATCH_BYTES
    Arrow     compressed buffers are refused: `save_to_disk` writes none
"""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from align.errors import RowError

MOST_RATIO = 400
"""Bytes out of each byte of gzip. Its own limit is 1,032."""
UNPACKED_BYTES = 4 * 2**20
PARQUET_RATIO = 100
GROUP_BYTES = 256 * 2**20
"""A group of rows up to this size is read, whatever its ratio."""
MOST_ROWS_A_BYTE = 64
GROUP_ROWS = 2**20
"""A group of up to this many rows is read, however few bytes they take. It is the most that pyarrow writes."""
BATCH_BYTES = 64 * 2**20
_MOST_ROWS, _LEAST_ROWS = 1000, 4
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


class Inflated(io.RawIOBase):
    """What a gzip file unpacks to. Reading raises RowError where it is a bomb."""

    def __init__(self, handle: IO[bytes], path: str) -> None:
        self._handle, self._path = handle, path
        self._file = gzip.GzipFile(fileobj=handle)
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._unpacked += len(data)
        if self._unpacked > max(UNPACKED_BYTES, MOST_RATIO * self._handle.tell()):
            what = f"unpacks to more than {MOST_RATIO} times its size"
            raise RowError(self._path, what, "Unpack it with gunzip first, if you trust where it came from")
        buffer[: len(data)] = data
        return len(data)


def parquet_batch_rows(path: Path) -> int:
    """How many rows of a Parquet file to read at a time. Raises RowError where its footer describes a bomb.

    A column may hold one long text and repeat it in every row, so a row may have any size up to that of its columns:
    a group with a column of 2 MiB is read 32 rows at a time, and one with 1 GiB 4 rows at a time.
    """
    import pyarrow.parquet

    footer = pyarrow.parquet.read_metadata(path)
    largest = 1
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        packed = sum(column.total_compressed_size for column in columns)
        unpacked = sum(column.total_uncompressed_size for column in columns)
        how = "Write the file again from its source, if you trust where it came from"
        if unpacked > max(GROUP_BYTES, PARQUET_RATIO * packed):
            what = f"unpacks to {unpacked} bytes from {packed} in one group of rows"
            raise RowError(path, what, how)
        if group.num_rows > max(GROUP_ROWS, MOST_ROWS_A_BYTE * packed):
            raise RowError(path, f"holds {group.num_rows} rows in {packed} bytes of one group", how)
        largest = max([largest, *(column.total_uncompressed_size for column in columns)])
    return max(_LEAST_ROWS, min(_MOST_ROWS, BATCH_BYTES // largest))


def refuse_compressed_arrow(folder: Path) -> None:
    """Raise RowError for a folder of `save_to_disk` with an Arrow file whose buffers are compressed.

    `datasets` reads the files that the folder's `state.json` names, whatever their endings are; one outside of the
    folder is refused too. Only the messages' metadata is read.
    """
    import pyarrow as pa

    for file in sorted({*folder.rglob("*.arrow"), *_saved_files(folder)}):
        if file.stat().st_size == 0:
            continue
        with pa.memory_map(str(file)) as source:
            try:
                messages = pa.ipc.MessageReader.open_stream(source)
                for message in messages:
                    if _is_compressed(message.metadata.to_pybytes()):
                        what = "has compressed buffers, which `save_to_disk` does not write"
                        raise RowError(file, what, "Save the dataset again")
            except (pa.ArrowInvalid, StopIteration, struct.error):
                continue  # `datasets` reads it next, and says what is wrong with it


def _saved_files(folder: Path) -> list[Path]:
    """The files that a saved dataset names, or those of each split of a dictionary of datasets."""
    splits = _named(folder / "dataset_dict.json", folder, lambda found: found["splits"])
    files = [
        file
        for part in (folder, *splits)
        for file in _named(part / "state.json", part, lambda found: [each["filename"] for each in found["_data_files"]])
    ]
    return [file for file in files if file.is_file()]


def _named(file: Path, folder: Path, names: Callable[[Any], list[str]]) -> list[Path]:
    """The paths in a folder that a JSON file names. Raises RowError for one that leads out of the folder."""
    try:
        found = [Path(name) for name in names(json.loads(file.read_bytes()))]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []  # there is no such file, or `datasets` says what is wrong with it
    for name in found:
        if name.is_absolute() or ".." in name.parts:
            what = f"names {str(name)!r}, which is outside of its folder"
            raise RowError(file, what, "Save the dataset again; `save_to_disk` names files in its folder only")
    return [folder / name for name in found]


def _is_compressed(metadata: bytes) -> bool:
    """Whether an Arrow message is a batch with a `compression`, or a batch of a dictionary.

    A flatbuffer's table begins with the distance back to its list of fields (its vtable), which holds the place of each
    field, or 0 where it is left out (Message.fbs: header_type is field 1, header field 2; RecordBatch: compression is
    field 3).
    """
    (root,) = struct.unpack_from("<I", metadata, 0)
    kind = _field(metadata, root, 1)
    if not kind or metadata[kind] not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    if metadata[kind] == _DICTIONARY_BATCH:
        return True
    header = _field(metadata, root, 2)
    (offset,) = struct.unpack_from("<I", metadata, header)
    return bool(_field(metadata, header + offset, 3))


def _field(buffer: bytes, table: int, number: int) -> int:
    """The place of a table's field; 0 where it is left out."""
    (back,) = struct.unpack_from("<i", buffer, table)
    fields = table - back
    (size,) = struct.unpack_from("<H", buffer, fields)
    entry = 4 + 2 * number
    if entry >= size:
        return 0
    (place,) = struct.unpack_from("<H", buffer, fields + entry)
    return table + place if place else 0
