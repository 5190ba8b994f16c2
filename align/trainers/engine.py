"""What is changed at DeepSpeed's engine, so that it saves and loads checkpoints as they are read here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from align.trainers.processes import Processes
from align.trainers.resharding import reshard_while_loading
from align.trainers.saving import tensors_only


def prepare_engine(engine: Any, processes: Processes, *, adapted: bool, before_loading: Callable[[Any], None]) -> None:
    """Make all changes, before the engine loads a checkpoint.

    adapted: whether an adapter is trained. before_loading: called with the engine before it loads a checkpoint.
    """
    reshard_while_loading(engine, processes)
    if adapted:
        leave_frozen_weights_out(engine)
    refuse_code_while_loading(engine)
    call_before_loading(engine, before_loading)
    processes.times.watch_deepspeed()


def leave_frozen_weights_out(engine: Any) -> None:
    """Make DeepSpeed's checkpoints contain the trained adapter only, without the base, which never changes.

    transformers does so for `PeftModel` only, and our adapter is attached to the model in place. Loading must then
    accept that the frozen weights are missing.
    """
    load = engine.load_checkpoint
    engine.save_checkpoint = partial(engine.save_checkpoint, exclude_frozen_parameters=True)
    engine.load_checkpoint = lambda *a, **settings: load(*a, **(settings | {"load_module_strict": False}))


def call_before_loading(engine: Any, action: Callable[[Any], None]) -> None:
    """Make DeepSpeed's engine call `action(engine)` before it loads a checkpoint.

    Without DeepSpeed `TreeTrainer._load_from_checkpoint` is that place.
    """
    load = engine.load_checkpoint

    def load_checkpoint(*arguments: Any, **settings: Any) -> Any:
        action(engine)
        return load(*arguments, **settings)

    engine.load_checkpoint = load_checkpoint


def refuse_code_while_loading(engine: Any) -> None:
    """Make DeepSpeed's engine load nothing but tensors, plain values and four classes of DeepSpeed's own."""
    load = engine.load_checkpoint

    def load_checkpoint(folder: str, *arguments: Any, **settings: Any) -> Any:
        with tensors_only(folder):
            return load(folder, *arguments, **settings)

    engine.load_checkpoint = load_checkpoint
