"""What every trainer shares: tree batches, a loss over the whole optimizer step's rows, and when a run stops.

`transformers.Trainer` brings the loop, the optimizer, trackers, ZeRO-3 and `accelerate launch`. Ours is what an item is
(one optimizer step: `align/tree/pack.py`), what its loss is divided by, and that nothing is saved of a step that went
wrong. The checkpoint folders themselves are `align/trainers/checkpoints.py`'s.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.core_model_loading import revert_weight_conversion

from align.chat.protocol import ChatProtocol
from align.config import Section, dump
from align.errors import AlignError, CheckpointError, ConfigError, ProofError
from align.files import whole_file
from align.manifest import read_manifest, seal_folder, unseal_folder
from align.models import adapters
from align.models.adapters import is_adapted, load_weights, trained_shapes
from align.models.exactness import longest_sequence, refuse_untrainable, require_within, warn_of_untrained_positions
from align.models.fitting import is_finite
from align.models.logps import TreeModel, TreePolicy
from align.models.serving import write_serving_files
from align.reporting import MetricsFile, logger
from align.settings import ModelConfig, TrainingConfig
from align.trainers.checkpoints import CheckpointFolders, model_files, require_saved, run_identity
from align.trainers.checks import prove_packing, prove_terminators, show_supervision
from align.trainers.data import discard_temporary, keep_trees
from align.trainers.output import CHECKPOINT, METRICS, release_output, write_errors
from align.trainers.schedules import Schedule, warmup_steps
from align.trainers.steering import Steering
from align.tree.encode import PromptTree, Segment
from align.tree.pack import RunPlan, StepPlan, TreeBatch, collate, tree_costs, tree_numbers
from align.tree.store import TreeStore

log = logger(__name__)

_NAMED_ROWS = 8
"""How many rows an error names."""
_CPU_MEMORY = "can't allocate memory"


class TreeTrainer(Trainer, ABC):
    """Train `model` on prompt trees. Subclasses say what the loss of a batch is and what it is divided by.

    start: the checkpoint that the model was loaded from. recipe: the whole config, which manifests record.
    """

    stage = "train"

    def __init__(
        self,
        model: TreeModel,
        arguments: TrainingArguments,
        trees: Sequence[PromptTree],
        protocol: ChatProtocol,
        *,
        start: ModelConfig,
        training: TrainingConfig,
        token_budget: int,
        recipe: Section,
    ) -> None:
        refuse_untrainable(model.model)
        if model.limit is not None:
            require_within(model.limit, longest_sequence(trees, floor=model.limit.tokens))
        if arguments.process_index == 0:
            warn_of_untrained_positions(model.model, trees)
        self.trees = trees
        self.protocol = protocol
        self.start = start
        self.training = training
        self.recipe = dump(recipe)
        self.plan = RunPlan(
            tree_numbers(trees, "tokens"),
            costs=tree_costs(trees, model.config, head=isinstance(model, TreePolicy)),
            batch_size=training.batch_size,
            token_budget=token_budget,
            epochs=training.epochs,
            max_steps=training.max_steps,
            seed=training.seed,
            processes=arguments.world_size,
            process=arguments.process_index,
        )
        self.output = Path(arguments.output_dir)
        self.identity: dict[str, str] = {}
        """What the run is made of, known once `fit` has begun: see `run_identity`."""
        self._rows_of_step: tuple[int, ...] = ()
        self._sums: dict[str, float] = defaultdict(float)
        self._trained_seconds = 0.0
        self.progress_note = ""
        self._began = time.monotonic()
        self._metrics: MetricsFile | None = None
        super().__init__(model=model, args=arguments, train_dataset=self.plan, data_collator=_only)
        self.remove_callback(PrinterCallback)
        self._steering = Steering(self)
        self.add_callback(self._steering)

    # What a method defines

    @abstractmethod
    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        """What the optimizer step's losses are divided by, from all its rows over all processes."""

    @abstractmethod
    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        """This batch's share of the step's loss: a sum over its rows, divided by the step's denominators."""

    def supervised(self, branch: Segment) -> Sequence[bool] | np.ndarray:
        """Which of a branch's tokens the loss reads, one entry for each."""
        return branch.loss_mask

    def before_first_step(self, model: torch.nn.Module, resumed: bool) -> None:
        """Once the model stands as it will train (wrapped, sharded). DPO takes its reference log-probabilities here."""

    def prove_first_step(self, totals: dict[str, float]) -> None:
        """Raise ProofError where the first step's sums are not what an untrained policy must give."""

    # The run

    def fit(self) -> Path:
        """Train to the end, from the newest whole checkpoint if there is one. Returns the finished model's folder.

        A folder that is finished is left as it is, if config, start, rows and tokenizer are the same; otherwise the run
        is refused.
        """
        how = "Free some space, or name another training.output_dir; the same command resumes from the last checkpoint"
        try:
            with self._steering.signals(), write_errors(self.output, how), self._memory_errors():
                return self._fit()
        finally:
            if self.is_world_process_zero():
                discard_temporary(self.output)
                release_output(self.output)

    def _fit(self) -> Path:
        self.identity = self._agree(lambda: run_identity(self.start, self.model.precision, self.trees, self.protocol))
        self.checkpoints = CheckpointFolders(
            self.output,
            stage=self.stage,
            recipe=self.recipe,
            identity=self.identity,
            keep=self.training.keep_checkpoints,
            sharded_over=self.args.world_size if self.is_deepspeed_enabled else None,
        )
        if self._agree(self.checkpoints.finished):
            log.info("%s is finished already; nothing to train", self.output)
            self._clear_finished()
            return self.output
        self._require_savable()
        checkpoint = self._agree(self.checkpoints.newest)
        if self.is_world_process_zero():
            keep_trees(self.trees)
        step = int(checkpoint.name.removeprefix(CHECKPOINT)) if checkpoint else 0
        if self.is_world_process_zero():
            self._metrics = MetricsFile(self.output / METRICS, keep_to_step=step)
        if checkpoint:
            log.info("resuming from %s", checkpoint)
        share, passes = self.plan.filled_share(), len(self.plan[0].bins)
        log.info("%d steps, the first of %d packed rows a process, %.0f%% filled", len(self.plan), passes, 100 * share)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.state.global_step < len(self.plan):
            raise SystemExit(128 + signal.SIGTERM)  # asked to stop: the checkpoint is written, the run is not over
        return self._finish()

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """In the block, running out of memory becomes a ConfigError that names what to lower."""
        try:
            yield
        except AlignError:
            raise
        except (MemoryError, RuntimeError) as error:
            # torch's CPU allocator has no error of its own.
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and _CPU_MEMORY not in str(error):
                raise
            what = f"out of memory in step {self.state.global_step + 1} ({str(error).partition(chr(10))[0][:200]})"
            how = (
                f"Lower data.token_budget (now {self.plan.token_budget}), set model.gradient_checkpointing: true, "
                "or spread the model over more GPUs with a DeepSpeed file"
            )
            raise ConfigError("training", what, how) from None

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate: each process's plan names its own bins already.
        return DataLoader(self.plan, batch_size=1, shuffle=False, collate_fn=_only)

    def training_step(self, model: torch.nn.Module, inputs: StepPlan, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward passes of one optimizer step. Returns a loss whose mean over processes is the step's.

        Each bin's loss is a sum over its rows divided by a count over the whole step's rows, so neither packing nor the
        number of micro-steps or processes changes the gradient.
        """
        began = time.monotonic()
        self._rows_of_step = tuple(inputs.rows)
        model.train()
        denominators = self.denominators([self.trees[row] for row in inputs.rows])
        total = torch.zeros((), device=self.args.device)
        sharded = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        for place, members in enumerate(inputs.bins):
            last = place == len(inputs.bins) - 1
            batch = self._batch(members or inputs.rows[:1], weight=1.0 if members else 0.0)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last or sharded else self.accelerator.no_sync(model):
                # Processes average their gradients; the denominators are global, so the average is scaled back.
                loss = self.batch_loss(model, batch, denominators) * self.args.world_size
                if not math.isfinite(loss.item()):
                    what = f"the loss is {loss.item()} on rows {', '.join(batch.tree_ids)}"
                    raise ProofError(
                        f"step {self.state.global_step + 1}", what, "Look at these rows, or lower the learning rate"
                    )
                self.accelerator.backward(loss, **({"scale_wrt_gas": False} if sharded else {}))
            total += loss.detach()
            tokens = batch.input_ids.shape[1] if members else 0
            self._sums["tokens"] += tokens
            self._sums["token_places"] += max(tokens, self.plan.token_budget)
        if self.state.global_step == 0 and self.training.proofs:
            self.prove_first_step(self._reduced(dict(self._sums)))
        self._trained_seconds += time.monotonic() - began
        return total

    def count(self, **values: Tensor | float) -> None:
        """Add to the sums that `log` reports; a name ending in `_sum` is reported as its mean over `rows`."""
        for name, value in values.items():
            self._sums[name] += float(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metrics to the trackers, and on rank zero to metrics.jsonl. Every process comes here."""
        if "loss" in logs:
            totals = self._reduced(dict(self._sums))
            self._sums.clear()
            rows = max(totals.pop("rows", 0.0), 1.0)
            if "token_places" in totals:
                logs["filled_share"] = totals["tokens"] / totals.pop("token_places")
            logs |= {k.removesuffix("_sum"): v / rows if k.endswith("_sum") else v for k, v in totals.items()}
            self.progress_note = f"loss {logs['loss']:.3f}" + (
                f"  margin {logs['margin']:.2f}" if "margin" in logs else ""
            )
            if self._metrics is not None:
                epoch = self.state.global_step / self.plan.steps_per_epoch
                self._metrics.write(self.state.global_step, {"epoch": round(epoch, 4), **logs})
        super().log(logs, start_time)

    def _batch(self, members: Sequence[int], weight: float = 1.0) -> TreeBatch:
        trees = [self.trees[member] for member in members]
        return collate(trees, [weight] * len(trees)).to(self.args.device)

    def _reduced(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over processes. Names are the same on each, in the same order once sorted."""
        names = sorted(sums)
        if self.args.world_size == 1 or not sums:
            return {name: float(sums[name]) for name in names}
        values = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=self.args.device)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    @property
    def low_precision(self) -> bool:
        """Whether products run in bfloat16."""
        return self.model.low_precision

    def _prove(self, model: torch.nn.Module) -> None:
        """The proofs of align/trainers/checks.py on the first step's rows, by all processes alike."""
        rows = [self.trees[row] for row in self.plan[0].rows]
        show_supervision(rows[:2], self.supervised, self.protocol)
        prove_terminators(rows, self.supervised, self.protocol)
        model.eval()
        self._prove_packing(model, rows)
        if self.model.precision == "bf16" and self._hugging_face_model.dtype == torch.float32:
            self.model.precision = "fp32"  # once more without bfloat16's rounding, which would hide a small fault
            self._prove_packing(model, rows)
            self.model.precision = "bf16"

    @torch.no_grad()
    def _prove_packing(self, model: torch.nn.Module, rows: Sequence[PromptTree]) -> None:
        prove_packing(lambda batch: model(batch.to(self.args.device)), rows, low_precision=self.low_precision)

    # transformers' hooks

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        return None  # the step's denominators are `denominators`, known without asking other processes

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        if getattr(self, "lr_scheduler", None) is None:
            warmup = warmup_steps(self.training.warmup_share, num_training_steps)
            least = self.training.min_learning_rate_share
            schedule = Schedule(self.training.schedule, num_training_steps, warmup, least)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, schedule)
            self._created_lr_scheduler = True
            if self.is_deepspeed_enabled and is_adapted(self._hugging_face_model):
                _leave_frozen_weights_out(self.accelerator.deepspeed_engine_wrapped.engine)
        return self.lr_scheduler

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Called once the gradients of a step are complete, before the optimizer uses them.

        DeepSpeed has used them by then, unless their norm is not finite: then it has left the weights as they were, and
        gives infinity as the norm. Gradients are sums over processes, so all processes raise together.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        engine = self.accelerator.deepspeed_engine_wrapped.engine if self.is_deepspeed_enabled else None
        skipped = engine is not None and getattr(engine.optimizer, "overflow", False)
        if skipped or norm is None or not math.isfinite(norm):
            raise ProofError(
                f"step {self.state.global_step + 1}",
                f"the gradient norm is {norm if norm is None else float(norm)}, with a finite loss, on rows "
                f"{self._named_rows()}",
                f"Nothing of this step was saved. {self._what_to_change()}",
            )
        return norm

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.training.proofs:
            self._prove(prepared[0])
        self.before_first_step(prepared[0], resumed=resume_from_checkpoint is not None)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if is_adapted(self._hugging_face_model):
            load_weights(self._hugging_face_model, resume_from_checkpoint)
            return
        folder = Path(resume_from_checkpoint)
        state: dict[str, Tensor] = {}
        for name in read_manifest(folder)["files"]:  # and no other file that may be in the folder
            if name.startswith("model") and name.endswith(".safetensors"):
                state |= load_file(folder / name)
        loaded = self._hugging_face_model.load_state_dict(state, strict=False)
        odd = [*loaded.unexpected_keys, *(set(loaded.missing_keys) - self._tied_names())]
        if odd:
            how = "Delete it to resume from an earlier one"
            raise CheckpointError(folder, f"is whole, but does not fit the model: {', '.join(odd[:3])}", how)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # transformers would write training_args.bin as well, which holds the Hub token in clear.
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        if state_dict is not None:
            state_dict = {
                name.removeprefix("model."): tensor for name, tensor in state_dict.items() if name.startswith("model.")
            }
        if is_adapted(self._hugging_face_model):
            adapters.save(self._hugging_face_model, folder, state_dict)
        else:
            config = self._hugging_face_model.config
            # The cache is off for training alone: generation from the files needs it.
            config.use_cache, used = True, config.use_cache
            try:
                self._hugging_face_model.save_pretrained(folder, state_dict=state_dict)
            finally:
                config.use_cache = used
        write_serving_files(folder, self.protocol)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._require_finite_weights()
        folder = self.checkpoints.of_step(self.state.global_step)
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run left half-written
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            require_saved(folder, self._saved_shapes(), sharded=self.is_deepspeed_enabled)
            files = [file for file in folder.rglob("*") if file.is_file()]
            seal_folder(folder, files, {"step": self.state.global_step, **self._notes()})
            self.checkpoints.prune(folder)
        self.accelerator.wait_for_everyone()

    # Checkpoints

    @property
    def _hugging_face_model(self) -> Any:
        return self.model.model

    def _tied_names(self) -> set[str]:
        """Weights that are saved under another name only: a tied output head."""
        model = self._hugging_face_model
        return set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()

    def _saved_shapes(self) -> dict[str, list[int]]:
        """Name -> shape of each weight that the saved files must hold; under ZeRO-3 the whole shape."""
        model = self._hugging_face_model
        if is_adapted(model):
            return trained_shapes(model)
        tied = self._tied_names()
        named = model.named_parameters()
        return {name: list(getattr(weight, "ds_shape", weight.shape)) for name, weight in named if name not in tied}

    def _require_savable(self) -> None:
        """Raise CheckpointError before any training if the model's weights would be saved under other names.

        transformers rewrites some models while saving (a mixture of experts: one tensor of all experts becomes one for
        each). Tried on weights without content.
        """
        model = self._hugging_face_model
        if is_adapted(model):
            return
        shapes = self._saved_shapes()
        held = {name: torch.empty(shape, dtype=model.dtype, device="meta") for name, shape in shapes.items()}
        saved = {name: list(tensor.shape) for name, tensor in revert_weight_conversion(model, held).items()}
        for name, shape in shapes.items():
            if saved.get(name) != shape:
                what = f"{type(model).__name__} cannot be trained here: its weight {name} is not saved under that name"
                how = "Train a dense model, or set model.lora"
                raise CheckpointError(self.start.path, what, how)

    def _require_finite_weights(self) -> None:
        """Raise ProofError on all processes if a trained weight of any is not finite. Looked at before each save."""
        named = self._hugging_face_model.named_parameters()
        # Under ZeRO-3 ds_tensor is this process's part of the weight.
        parts = ((name, getattr(weight, "ds_tensor", weight)) for name, weight in named if weight.requires_grad)
        broken = [name for name, part in parts if not is_finite(part)]
        if self.anywhere(bool(broken)):
            raise ProofError(
                f"step {self.state.global_step}",
                f"the weight {broken[0] if broken else 'of another process'} is not finite after the update on rows "
                f"{self._named_rows()}",
                f"Nothing of it was saved. {self._what_to_change()}",
            )

    def anywhere(self, here: bool) -> bool:
        """Whether something holds on any process. Every process comes here."""
        if self.args.world_size == 1:
            return here
        flag = torch.tensor(float(here), device=self.args.device)
        dist.all_reduce(flag)
        return bool(flag.item() > 0)

    def _named_rows(self) -> str:
        named = ", ".join(self.trees[row].id for row in self._rows_of_step[:_NAMED_ROWS])
        more = len(self._rows_of_step) - _NAMED_ROWS
        return f"{named} and {more} more" if more > 0 else named

    def _what_to_change(self) -> str:
        rate = f"training.learning_rate ({self.training.learning_rate:g})"
        return f"Look at these rows, or lower {rate} or training.max_grad_norm ({self.training.max_grad_norm:g})"

    def _notes(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "processes": self.args.world_size,
            "config": self.recipe,
            "steps": len(self.plan),
            "identity": self.identity,
        }

    def _agree(self, question: Callable[[], Any]) -> Any:
        """Rank zero's answer, on every process; its error too, so that no process waits for one that has left."""
        answer: list[Any] = [None, None]
        if self.is_world_process_zero():
            try:
                answer[0] = question()
            except AlignError as error:
                answer[1] = error
        broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def _finish(self) -> Path:
        """Write the finished model, seal it, and delete the intermediate checkpoints' optimizer states."""
        self._require_finite_weights()
        if self.is_world_process_zero():
            unseal_folder(self.output)
        self.accelerator.wait_for_everyone()
        self.save_model(str(self.output), _internal_call=True)
        if self.is_world_process_zero():
            require_saved(self.output, self._saved_shapes(), sharded=self.is_deepspeed_enabled)
            seconds = {"seconds": time.monotonic() - self._began, "trained_seconds": self._trained_seconds}
            with whole_file(self.output / "timing.json") as handle:
                json.dump(seconds | {"steps": self.state.global_step}, handle)
            seal_folder(self.output, model_files(self.output), self._notes())
        self._clear_finished()
        self.accelerator.wait_for_everyone()
        return self.output

    def _clear_finished(self) -> None:
        """A finished folder holds models, and neither what they were trained on nor what resuming needs. Mapped trees
        stay readable.
        """
        if self.is_world_process_zero():
            self.checkpoints.clear_states()
            if isinstance(self.trees, TreeStore):
                self.trees.path.unlink(missing_ok=True)


def _only(items: list[Any]) -> Any:
    return items[0]


def _leave_frozen_weights_out(engine: Any) -> None:
    """Have DeepSpeed's checkpoints hold what is trained: an adapter, without the base, which never changes.

    transformers does so for `PeftModel` only, and ours is attached in place. Loading must not miss what was left out.
    """
    load = engine.load_checkpoint
    engine.save_checkpoint = partial(engine.save_checkpoint, exclude_frozen_parameters=True)
    engine.load_checkpoint = lambda *a, **settings: load(*a, **(settings | {"load_module_strict": False}))
