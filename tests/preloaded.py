"""What the fork server of tests/processes.py has done before it forks, so that no training does it again.

It has imported what trainings import. It has parsed the source files, whose hashes are in the keys of results (a file
that changes is parsed again), and compiled the patterns by which transformers renames weights. And it has set all
objects aside from garbage collection: a training asks for several full collections, and each would visit the objects of
the libraries, which takes 0.3 s and copies the memory that forks share.
"""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

IMPORTED = [
    *("torch", "torch.distributed.run", "transformers", "transformers.trainer", "accelerate.commands.launch"),
    *("transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto", "deepspeed", "peft"),
    *("align.trainers.dpo", "align.trainers.sft", "align.trainers.reward", "align.trainers.data"),
    *("align.trainers.arguments", "align.models.loading", "align.publish.hub", "tests.processes"),
]


def _prepare() -> None:
    from align.source_code import code_of

    for name in IMPORTED:
        with suppress(ImportError):
            importlib.import_module(name)
    code_of()
    with suppress(ImportError):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")


gc.disable()  # imports make many objects and hardly any garbage
_prepare()
gc.collect()
gc.freeze()
gc.enable()
