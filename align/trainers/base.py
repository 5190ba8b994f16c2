"""What every trainer shares: tree batches, a loss over the whole optimizer step's rows, checkpoints whole or absent.

`transformers.Trainer` brings the loop, the optimizer, schedules, trackers, ZeRO-3 and `accelerate launch`. Ours is what
an item is (one optimizer step: `align/tree/pack.py`), what its loss is divided by, and how checkpoints are kept.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from align.chat.protocol import ChatProtocol
from align.config import Section, dump
from align.errors import CheckpointError, ProofError
from align.files import whole_file
from align.manifest import is_whole, seal_folder, unseal_folder, verify_folder
from align.models.adapters import is_adapted, load_weights, trained_shapes
from align.models.logps import TreeModel, TreePolicy
from align.models.serving import write_serving_files
from align.reporting import MetricsFile, Progress, logger
from align.settings import TrainingConfig
from align.trainers.proofs import prove_packing, prove_terminators, show_supervision
from align.tree.encode import PromptTree, Segment
from align.tree.pack import RunPlan, StepPlan, TreeBatch, collate, tree_costs, tree_numbers
from align.tree.store import TreeStore

log = logger(__name__)

CHECKPOINT = "checkpoint-"


class TreeTrainer(Trainer, ABC):
    """Train `model` on prompt trees. Subclasses say what the loss of a batch is and what it is divided by."""

    stage = "train"

    def __init__(
        self,
        model: TreeModel,
        arguments: TrainingArguments,
        trees: Sequence[PromptTree],
        protocol: ChatProtocol,
        *,
        training: TrainingConfig,
        token_budget: int,
        recipe: Section,
    ) -> None:
        self.trees = trees
        self.protocol = protocol
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
        self._sums: dict[str, float] = defaultdict(float)
        self._trained_seconds = 0.0
        self.progress_note = ""
        self._began = time.monotonic()
        self._metrics: MetricsFile | None = None
        super().__init__(model=model, args=arguments, train_dataset=self.plan, data_collator=_only)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Steering(self))

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
        """Train to the end, from the newest whole checkpoint where there is one. Returns the finished model's folder.

        A folder that is finished under the same config is left as it is; under another config it is refused.
        """
        if self._finished_already():
            log.info("%s is finished already; nothing to train", self.output)
            self._remove_trees()
            return self.output
        checkpoint = self._agree(self._newest_checkpoint)
        step = int(checkpoint.name.removeprefix(CHECKPOINT)) if checkpoint else 0
        if self.is_world_process_zero():
            self._metrics = MetricsFile(self.output / "metrics.jsonl", keep_to_step=step)
        if checkpoint:
            log.info("resuming from %s", checkpoint)
        share, passes = self.plan.filled_share(), len(self.plan[0].bins)
        log.info("%d steps, the first of %d packed rows a process, %.0f%% filled", len(self.plan), passes, 100 * share)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.state.global_step < len(self.plan):
            raise SystemExit(128 + signal.SIGTERM)  # asked to stop: the checkpoint is written, the run is not over
        return self._finish()

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate: each process's plan names its own bins already.
        return DataLoader(self.plan, batch_size=1, shuffle=False, collate_fn=_only)

    def training_step(self, model: torch.nn.Module, inputs: StepPlan, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward passes of one optimizer step. Returns a loss whose mean over processes is the step's.

        Each bin's loss is a sum over its rows divided by a count over the whole step's rows, so neither packing nor the
        number of micro-steps or processes changes the gradient.
        """
        began = time.monotonic()
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
        return self.model.precision == "bf16" or self._hugging_face_model.dtype == torch.bfloat16

    def _prove(self, model: torch.nn.Module) -> None:
        """The proofs of align/trainers/proofs.py on the first step's rows, by all processes alike."""
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
        state: dict[str, Tensor] = {}
        for file in sorted(Path(resume_from_checkpoint).glob("model*.safetensors")):
            state |= load_file(file)
        loaded = self._hugging_face_model.load_state_dict(state, strict=False)
        odd = [*loaded.unexpected_keys, *(set(loaded.missing_keys) - self._tied_names())]
        assert not odd, f"{resume_from_checkpoint} was verified, and yet does not fit: {odd}"

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # transformers would write training_args.bin as well, which holds the Hub token in clear.
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        if state_dict is not None:
            state_dict = {
                name.removeprefix("model."): tensor for name, tensor in state_dict.items() if name.startswith("model.")
            }
        self._hugging_face_model.save_pretrained(folder, state_dict=state_dict)
        write_serving_files(folder, self.protocol)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = self.output / f"{CHECKPOINT}{self.state.global_step}"
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run left half-written
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            self._check_saved(folder)
            files = [file for file in folder.rglob("*") if file.is_file()]
            seal_folder(folder, files, {"step": self.state.global_step, **self._notes()})
            for stale in self._checkpoints()[self.training.keep_checkpoints :]:
                unseal_folder(stale)
                shutil.rmtree(stale)
        self.accelerator.wait_for_everyone()

    # Checkpoints

    @property
    def _hugging_face_model(self) -> Any:
        return self.model.model

    def _tied_names(self) -> set[str]:
        """Weights that are saved under another name only: a tied output head."""
        model = self._hugging_face_model
        return set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()

    def _whole_shapes(self) -> dict[str, list[int]]:
        """Name -> shape of each weight that a whole model's files hold."""
        tied = self._tied_names()
        named = self._hugging_face_model.named_parameters()
        return {name: list(getattr(weight, "ds_shape", weight.shape)) for name, weight in named if name not in tied}

    def _notes(self) -> dict[str, Any]:
        return {"stage": self.stage, "processes": self.args.world_size, "config": self.recipe, "steps": len(self.plan)}

    def _checkpoints(self) -> list[Path]:
        """Checkpoint folders, newest first."""
        found = [path for path in self.output.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]
        return sorted(found, key=lambda path: -int(path.name.removeprefix(CHECKPOINT)))

    def _newest_checkpoint(self) -> Path | None:
        for folder in self._checkpoints():
            try:
                manifest = verify_folder(folder)
            except CheckpointError as error:
                log.warning("passing over a checkpoint that is not whole: %s", error)
                continue
            _refuse_other_config(folder, manifest, self.recipe)
            if self.is_deepspeed_enabled and manifest["processes"] != self.args.world_size:
                what = f"was written by {manifest['processes']} processes, and {self.args.world_size} are here"
                how = "Launch as many as before, or take the folder away to start over"
                raise CheckpointError(folder, what, how)
            return folder
        return None

    def _finished_already(self) -> bool:
        def look() -> bool:
            if not is_whole(self.output):
                return False
            _refuse_other_config(self.output, verify_folder(self.output), self.recipe)
            return True

        return bool(self._agree(look))

    def _agree(self, question: Any) -> Any:
        """Rank zero's answer, on every process; its error too, so that no process waits for one that has left."""
        answer: list[Any] = [None, None]
        if self.is_world_process_zero():
            try:
                answer[0] = question()
            except CheckpointError as error:
                answer[1] = error
        broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def _finish(self) -> Path:
        """Write the finished model, seal it, take the intermediate checkpoints' optimizer states away."""
        if self.is_world_process_zero():
            unseal_folder(self.output)
        self.accelerator.wait_for_everyone()
        self.save_model(str(self.output), _internal_call=True)
        if self.is_world_process_zero():
            self._check_saved(self.output)
            seconds = {"seconds": time.monotonic() - self._began, "trained_seconds": self._trained_seconds}
            with whole_file(self.output / "timing.json") as handle:
                json.dump(seconds | {"steps": self.state.global_step}, handle)
            seal_folder(self.output, self._model_files(self.output), self._notes())
        self._remove_trees()
        self.accelerator.wait_for_everyone()
        return self.output

    def _remove_trees(self) -> None:
        """A finished folder holds the model, and not what it was trained on. Mapped trees stay readable."""
        if self.is_world_process_zero() and isinstance(self.trees, TreeStore):
            self.trees.path.unlink(missing_ok=True)

    @staticmethod
    def _model_files(folder: Path) -> list[Path]:
        kept = (".safetensors", ".json", ".jinja", ".model")
        extra = {"timing.json", "dropped.json", "MANIFEST.json", "trainer_state.json"}
        return [f for f in folder.iterdir() if f.is_file() and f.suffix in kept and f.name not in extra]

    def _check_saved(self, folder: Path) -> None:
        """Every name and shape of what was trained is in the files: ZeRO-3 is known to save tensors of shape [0]."""
        model = self._hugging_face_model
        adapted = is_adapted(model)
        saved: dict[str, list[int]] = {}
        for file in folder.glob("adapter_model.safetensors" if adapted else "model*.safetensors"):
            with safe_open(file, "pt") as handle:
                saved.update({name: handle.get_slice(name).get_shape() for name in handle.keys()})  # noqa: SIM118
        for name, shape in (trained_shapes(model) if adapted else self._whole_shapes()).items():
            if saved.get(name) != shape:
                what = f"tensor {name} was saved as {saved.get(name)}, wanted {shape}"
                how = "Set stage3_gather_16bit_weights_on_model_save in the DeepSpeed file"
                raise CheckpointError(folder, what, how)


class _Steering(TrainerCallback):
    """Progress, and leaving cleanly when asked to."""

    def __init__(self, trainer: TreeTrainer) -> None:
        self.trainer = trainer
        self.stop = False
        self.progress: Progress | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress = Progress(self.trainer.stage, len(self.trainer.plan), done=state.global_step)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def on_step_end(self, args, state, control, **kwargs):
        if self._anyone_asked():
            control.should_save = control.should_training_stop = True
        if control.should_save:
            # The means that metrics.jsonl reports would otherwise lose the steps since the last line.
            control.should_log = True
        if state.global_step >= state.max_steps:
            control.should_save = False  # the finished model is written instead

    def on_log(self, args, state, control, **kwargs):
        if self.progress and state.global_step > self.progress.done:
            self.progress.advance(state.global_step - self.progress.done, self.trainer.progress_note)

    def _ask(self, number: int, frame: Any) -> None:
        self.stop = True
        log.warning("asked to stop: a checkpoint is written after this step")

    def _anyone_asked(self) -> bool:
        if self.trainer.args.world_size == 1:
            return self.stop
        flag = torch.tensor(float(self.stop), device=self.trainer.args.device)
        dist.all_reduce(flag)
        return bool(flag.item() > 0)


def _only(items: list[Any]) -> Any:
    return items[0]


def _refuse_other_config(folder: Path, manifest: dict[str, Any], recipe: dict[str, Any]) -> None:
    before, now = (_flat({k: v for k, v in c.items() if k != "hub"}) for c in (manifest.get("config", {}), recipe))
    harmless = {"training.keep_checkpoints", "training.save_steps", "training.threads", "training.output_dir"}
    harmless |= {"training.proofs", "dpo.reference_cache", "dpo.reference_shard_steps"}
    changed = sorted(
        key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and key not in harmless
    )
    if changed:
        key = changed[0]
        what = f"was made with {key}={before.get(key)}, and now {key}={now.get(key)}"
        raise CheckpointError(folder, what, "Choose another training.output_dir, or take the folder away to start over")


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found
