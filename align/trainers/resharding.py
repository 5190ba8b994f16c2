"""Divide the ZeRO-3 states of a checkpoint among another number of processes than wrote it.

ZeRO-3 cuts each weight, and each of its optimizer states, into equal parts, one for each process; the last part is
filled up with zeros. DeepSpeed refuses a checkpoint of another number of processes. Here each process reads the values
of its own part from the parts that were written, and gives them to DeepSpeed as if it had written them: nothing is
computed, so master weights and moments keep every bit. Example: a weight of 10 values, written by two processes and
read by three. The second one reads 4 from the first file, and 5 6 7 from the second:

    written    0 1 2 3 4 | 5 6 7 8 9
    read       0 1 2 3 | 4 5 6 7 | 8 9 . .

DeepSpeed's way to do this is its universal checkpoint. In 0.19.8 its loader for ZeRO-3 (`stage3.py`,
`load_hp_checkpoint_state_from_checkpoint_dir_stage3`) cannot be used here. It

- gives one tensor `step` to all groups of weights, so that two groups count each optimizer step twice;
- gives every group the settings of the first one, so that norms get the weight decay of matrices;
- reads the states of all weights in every process, from a copy that is written before: for a model of 405B and 512
  processes 4.9 TB in each, instead of 9.5 GB.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from align.errors import CheckpointError, first_line
from align.manifest import read_manifest
from align.reporting import duration, logger, size_text
from align.trainers.processes import Processes
from align.trainers.saving import tensors_only

log = logger(__name__)

_STATES = re.compile(r"global_step\d+/(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
_MODEL = "zero_pp_rank_0_mp_rank_00_model_states.pt"
_HOW = "Resume with as many processes as before, or delete the folder to start over"

Shapes = Sequence[Mapping[str, Sequence[int]]]
"""Name -> shape of each weight, in the order in which ZeRO-3 stores them; one mapping for each of its groups."""


def has_zero3_states(manifest: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has optimizer states that ZeRO-3 has written."""
    return any(map(_STATES.fullmatch, manifest["files"]))


def state_files(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """The files of a checkpoint's ZeRO-3 states, in the order of the processes that wrote them.

    Raises CheckpointError if there is not one of each process.
    """
    found = {int(match[1]): folder / name for name in manifest["files"] if (match := _STATES.fullmatch(name))}
    if found.keys() != set(range(manifest["processes"])):
        what = f"was written by {manifest['processes']} processes, and has the ZeRO-3 states of {len(found)}"
        raise CheckpointError(folder, what, "Restore it from a copy, or delete the folder; an earlier one is used")
    return [found[number] for number in sorted(found)]


def reshard_while_loading(engine: Any, processes: Processes) -> None:
    """Make DeepSpeed's engine load checkpoints that any number of processes wrote.

    Raises CheckpointError on all processes if the states are not those of the engine's weights and optimizer.
    """
    load = engine.load_checkpoint

    def load_checkpoint(folder: str, *arguments: Any, **settings: Any) -> Any:
        manifest = read_manifest(Path(folder))
        if manifest["processes"] == processes.count:
            return load(folder, *arguments, **settings)
        files = state_files(Path(folder), manifest)
        _load_resharded(engine, processes, Path(folder), files, strict=settings.get("load_module_strict", True))
        return folder, {}

    engine.load_checkpoint = load_checkpoint


def _load_resharded(engine: Any, processes: Processes, folder: Path, files: list[Path], *, strict: bool) -> None:
    """What `DeepSpeedEngine.load_checkpoint` does for ZeRO-3, with states that are put together here."""
    began = time.monotonic()
    optimizer = engine.optimizer
    read: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def read_own() -> None:
        try:
            with tensors_only(folder):
                written = WrittenStates(folder, files)
                read.append((written.model, _own_state(written, engine)))
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            what = f"has ZeRO-3 states of an unknown form ({type(error).__name__}: {first_line(error)})"
            raise CheckpointError(folder, what, _HOW) from error

    optimizer.checkpoint_event_prologue()
    processes.everywhere(read_own)
    model, state = read.pop()
    engine.load_module_state_dict(model, strict=strict)  # buffers: under ZeRO-3 the weights come from the states
    optimizer.load_state_dict({dist.get_rank(optimizer.dp_process_group): state})
    optimizer.checkpoint_event_epilogue()
    engine.global_steps, engine.skipped_steps = model["global_steps"], model["skipped_steps"]
    engine.global_samples = engine.global_steps * engine.train_batch_size()
    log.info(
        "%s was written by %d processes: its ZeRO-3 states, %s, are divided among %d now (%s)",
        folder,
        len(files),
        size_text(sum(file.stat().st_size for file in files)),
        processes.count,
        duration(time.monotonic() - began),
    )


def _own_state(written: WrittenStates, engine: Any) -> dict[str, Any]:
    """What DeepSpeed's ZeRO-3 optimizer of this process would have saved."""
    optimizer, shapes = engine.optimizer, engine._get_zero_param_shapes()
    number, count = dist.get_rank(optimizer.dp_process_group), optimizer.partition_count
    flat = [each.numel() for each in optimizer.fp32_partitioned_groups_flat]
    if optimizer.swap_optimizer or flat != [part_of_group(group, count) for group in shapes]:
        what = "is resumed with another number of processes, and the DeepSpeed file keeps states on NVMe or in copies"
        raise CheckpointError(written.folder, what, _HOW)
    written.require_weights(shapes)
    groups = [written.group(list(group), number, count) for group in shapes]
    saved = written.of(0)
    settings = saved["optimizer_state_dict"]["param_groups"]
    owners = optimizer.sub_group_to_group_id
    if len(settings) != len(optimizer.optimizer.param_groups):
        what = f"has {len(settings)} groups of weights, expected {len(optimizer.optimizer.param_groups)}"
        raise CheckpointError(written.folder, what, _HOW)
    params = [[number for number in range(len(groups)) if owners[number] == owner] for owner in range(len(settings))]
    return {
        **saved,
        "partition_count": count,
        "optimizer_state_dict": {
            "state": {number: group.states for number, group in enumerate(groups)},
            "param_groups": [{**each, "params": own} for each, own in zip(settings, params, strict=True)],
        },
        "fp32_flat_groups": [group.weights for group in groups],
    }


class Group(NamedTuple):
    """One process's part of a group of weights."""

    weights: Tensor
    """[n], float32: the parts of all weights, one after the other."""
    states: dict[str, Any]
    """Of the optimizer: tensors [n], and what it has once for all weights, such as `step`."""


class _Place(NamedTuple):
    """Where the parts of a weight are in the tensors of each file."""

    group: int
    first: int
    values: int
    """Of the whole weight."""


class WrittenStates:
    """The ZeRO-3 states of a checkpoint. Files are mapped into memory, those that are needed, when they are."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.folder = folder
        self.count = len(files)
        self._files = files
        self._opened: dict[int, dict[str, Any]] = {}
        self.model: dict[str, Any] = _opened(files[0].with_name(_MODEL))
        self._shapes: Shapes = self.model["param_shapes"]
        self._places = dict(_places(self._shapes, self.count))

    def of(self, number: int) -> dict[str, Any]:
        """What the optimizer of one process has saved."""
        if number not in self._opened:
            self._opened[number] = _opened(self._files[number])["optimizer_state_dict"]
        return self._opened[number]

    def require_weights(self, shapes: Shapes) -> None:
        """Raise CheckpointError if the states are not of weights of these names and shapes, which are trained."""
        saved, expected = (
            {name: list(s) for each in every for name, s in each.items()} for every in (self._shapes, shapes)
        )
        odd = sorted(name for name in saved.keys() | expected.keys() if saved.get(name) != expected.get(name))
        if odd or self.model.get("frozen_param_fragments"):
            what = f"has ZeRO-3 states of other weights than are trained: {', '.join(odd[:3]) or 'frozen ones'}"
            raise CheckpointError(self.folder, what, _HOW)

    def group(self, names: Sequence[str], number: int, count: int) -> Group:
        """The part of process `number` of `count` in the weights of these names, in this order."""

        def weights_of(state: dict[str, Any], group: int) -> Tensor:
            weights: Tensor = state["fp32_flat_groups"][group]
            return weights

        def state_of(key: str) -> Callable[[dict[str, Any], int], Any]:
            return lambda state, group: state["optimizer_state_dict"]["state"][group][key]

        weights = self._joined(names, number, count, weights_of)
        first = self._places[names[0]].group
        states = {}
        for key, value in self.of(0)["optimizer_state_dict"]["state"][first].items():
            if isinstance(value, Tensor) and value.shape == weights_of(self.of(0), first).shape:
                states[key] = self._joined(names, number, count, state_of(key))
            else:
                states[key] = self._shared(names, key, state_of(key))
        return Group(weights, states)

    def _joined(
        self, names: Sequence[str], number: int, count: int, tensor_of: Callable[[dict[str, Any], int], Tensor]
    ) -> Tensor:
        """[n]: the parts of process `number` of `count`, read from the tensors of the processes that have them."""
        places = [self._places[name] for name in names]
        sizes = [part_size(place.values, count) for place in places]
        joined = torch.zeros(sum(sizes), dtype=tensor_of(self.of(0), places[0].group).dtype)
        first = 0
        for place, size in zip(places, sizes, strict=True):
            for piece in pieces(place.values, self.count, number, count):
                source = tensor_of(self.of(piece.process), place.group)[place.first + piece.source :]
                joined[first + piece.target :][: piece.values] = source[: piece.values]
            first += size
        return joined

    def _shared(self, names: Sequence[str], key: str, value_of: Callable[[dict[str, Any], int], Any]) -> Any:
        """A state that is not one value for each weight: it has to be the same in all files that were read."""
        groups = {self._places[name].group for name in names}
        values = [value_of(state, group) for state in self._opened.values() for group in groups]
        if any((isinstance(value, Tensor) and value.numel() != 1) or value != values[0] for value in values):
            what = f"has an optimizer state, {key}, that cannot be divided among another number of processes"
            raise CheckpointError(self.folder, what, _HOW)
        # A tensor of its own for each group: the optimizer counts in it.
        return values[0].clone() if isinstance(values[0], Tensor) else values[0]


class Piece(NamedTuple):
    """Values that one process has written of a weight, and another one now has."""

    process: int
    """Who wrote them."""
    source: int
    """The first one's place in the part that was written."""
    target: int
    """Its place in the part that is read."""
    values: int


def pieces(values: int, before: int, number: int, count: int) -> Iterator[Piece]:
    """What process `number` of `count` reads of a weight of `values` values that `before` processes have written.

    >>> list(pieces(10, before=2, number=1, count=3))
    [Piece(process=0, source=4, target=0, values=1), Piece(process=1, source=0, target=1, values=3)]
    """
    old, new = part_size(values, before), part_size(values, count)
    begin = place = number * new
    end = min(begin + new, values)
    while place < end:
        process, source = divmod(place, old)
        size = min(end - place, old - source)
        yield Piece(process, source, place - begin, size)
        place += size


def part_size(values: int, count: int) -> int:
    """The values that each of `count` processes has of a weight, with the zeros at the end."""
    return -(-values // count)


def part_of_group(shapes: Mapping[str, Sequence[int]], count: int) -> int:
    """The values that each process has of a group of weights."""
    return sum(part_size(prod(shape), count) for shape in shapes.values())


def _places(shapes: Shapes, count: int) -> Iterator[tuple[str, _Place]]:
    for number, group in enumerate(shapes):
        first = 0
        for name, shape in group.items():
            yield name, _Place(number, first, prod(shape))
            first += part_size(prod(shape), count)


def _opened(file: Path) -> dict[str, Any]:
    """What is in a file of DeepSpeed. Call it within `tensors_only`."""
    content: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return content


@contextmanager
def random_states(folder: Path, processes: Processes) -> Iterator[Path]:
    """A folder in which transformers finds the random states of this process, under the name that it looks for.

    One process writes rng_state.pth, and several rng_state_0.pth, rng_state_1.pth and so on. With another number of
    processes, number n goes on with the states of number n % before: all processes also begin with the same ones.
    """
    before = read_manifest(folder)["processes"]
    name, expected = _random_file(processes.number % before, before), _random_file(processes.number, processes.count)
    if name == expected:
        yield folder
        return
    with TemporaryDirectory(prefix="align-random-") as found:
        (Path(found) / expected).symlink_to((folder / name).resolve())
        yield Path(found)


def _random_file(number: int, count: int) -> str:
    return f"rng_state_{number}.pth" if count > 1 else "rng_state.pth"
