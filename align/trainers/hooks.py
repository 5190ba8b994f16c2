"""What this project uses of libraries beyond their documented interface, in one table.

transformers, accelerate and DeepSpeed may change these without notice. `changes` compares the table with the installed
versions, and a test requires that there are none. To check an environment of your own:

    python -m align.trainers.hooks

After a change: read the library's new code, adapt the file that `where_used` names, and add the new signature here.
Keep the old one while the range in pyproject.toml includes versions that have it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple


class Hook(NamedTuple):
    """One function or attribute of a library."""

    name: str
    """`module:Class.attribute`."""
    where_used: str
    why: str
    signatures: tuple[str, ...] = ()
    """Parameters with their defaults, without types, one text for each signature that was tested. Empty for an
    attribute, which only has to exist."""
    callers: tuple[str, ...] = ()
    """Methods of the same class that must call it, so that our version is used."""
    in_source: bool = False
    """For an attribute that exists only on instances, and for a parameter that a decorator hides: look for the name in
    the source of the class."""


_TRAINER = "transformers:Trainer"
_MODEL = "transformers:PreTrainedModel"
_DEEPSPEED = "transformers.integrations.deepspeed"
_BASE = "align/trainers/base.py"
_ENGINE = "deepspeed.runtime.engine:DeepSpeedEngine"
_ZERO_3 = "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3"
_SAVING = "align/trainers/saving.py"
_GRADIENTS = "align/trainers/gradients.py"
_CHECKPOINTING = "align/trainers/checkpointing.py"
_RESHARDING = "align/trainers/resharding.py"
_ATTENTION = "align/tree/attention.py"

HOOKS: tuple[Hook, ...] = (
    # Methods of transformers.Trainer that TreeTrainer replaces
    Hook(
        f"{_TRAINER}._get_num_items_in_batch",
        _BASE,
        "replaced: the denominators of a step are known in advance",
        ("(self, batch_samples, device)",),
        ("get_batch_samples",),
    ),
    Hook(
        f"{_TRAINER}._prepare_for_training",
        _BASE,
        "extended: checks and reference log-probabilities need the model as it is wrapped for training",
        ("(self, max_steps, train_dataloader, resume_from_checkpoint)",),
        ("_inner_training_loop",),
    ),
    Hook(
        f"{_TRAINER}._get_grad_norm",
        _BASE,
        "extended: the only point between complete gradients and the optimizer's use of them",
        ("(self, model, grad_norm=None)",),
        ("_run_epoch",),
    ),
    Hook(
        f"{_TRAINER}._load_from_checkpoint",
        _BASE,
        "replaced: only files that the manifest lists are loaded, and all names have to match",
        ("(self, resume_from_checkpoint, model=None)",),
        ("train", "_prepare_for_training"),
    ),
    Hook(
        f"{_TRAINER}._load_rng_state",
        _BASE,
        "extended: the files of another number of processes have other names",
        ("(self, checkpoint)",),
        ("_run_epoch",),
    ),
    Hook(
        f"{_TRAINER}._save",
        _BASE,
        "replaced: no training_args.bin (it contains the Hub token); names without the wrapper's prefix",
        ("(self, output_dir=None, state_dict=None)",),
        ("save_model",),
    ),
    Hook(
        f"{_TRAINER}._save_checkpoint",
        _BASE,
        "extended: weights are checked before, the manifest is written after",
        ("(self, model, trial)",),
        ("_maybe_log_save_evaluate",),
    ),
    Hook(
        "transformers:TrainerState.save_to_json",
        _BASE,
        "replaced: its time would grow with every logged step",
        ("(self, json_path)",),
    ),
    Hook(
        f"{_TRAINER}.save_model",
        _CHECKPOINTING,
        "called with `_internal_call`, which leaves the Hub alone",
        ("(self, output_dir=None, _internal_call=False)",),
    ),
    Hook(
        f"{_TRAINER}.training_step",
        _BASE,
        "replaced: one call is a whole optimizer step",
        ("(self, model, inputs, num_items_in_batch=None)",),
        ("_run_epoch",),
    ),
    Hook(
        f"{_TRAINER}.get_train_dataloader",
        _BASE,
        "replaced: each process reads its own plan",
        ("(self)",),
        ("_inner_training_loop",),
    ),
    Hook(
        f"{_TRAINER}.create_scheduler",
        _BASE,
        "replaced: the first step has a learning rate above 0",
        ("(self, num_training_steps, optimizer=None)",),
        ("_prepare_for_training",),
    ),
    Hook(
        f"{_TRAINER}.log",
        _BASE,
        "replaced: metrics are summed over processes, and transformers takes the whole run for one epoch",
        ("(self, logs, start_time=None)",),
        ("_maybe_log_save_evaluate",),
    ),
    Hook(
        f"{_TRAINER}.evaluate",
        _BASE,
        "replaced: held-out rows are packed as training rows are",
        ("(self, eval_dataset=None, ignore_keys=None, metric_key_prefix='eval')",),
        ("_evaluate",),
    ),
    Hook(
        f"{_TRAINER}.floating_point_ops",
        _BASE,
        "replaced: not computed, since an item is not a batch of tensors",
        ("(self, inputs)",),
        ("_run_epoch",),
    ),
    Hook(
        f"{_TRAINER}._created_lr_scheduler",
        _BASE,
        "set: transformers replaces the scheduler when it trains a second time",
        in_source=True,
    ),
    Hook(
        "torch.optim.lr_scheduler:LambdaLR.load_state_dict",
        "align/trainers/schedules.py",
        "extended: the saved fields of a schedule are not restored, since the number of steps may have changed",
        ("(self, state_dict)",),
    ),
    Hook(
        "torch.optim.lr_scheduler:LambdaLR._last_lr",
        "align/trainers/schedules.py",
        "set: the rates of the schedule for another number of steps",
        in_source=True,
    ),
    Hook(
        "transformers.integrations:WandbCallback._initialized",
        "align/trainers/trackers.py",
        "read: whether a tracker has started",
        in_source=True,
    ),
    # accelerate and DeepSpeed
    Hook(
        "accelerate.state:GradientState._set_sync_gradients",
        _GRADIENTS,
        "called: gradients are averaged in the last bin of a step only",
        ("(self, sync_gradients)",),
    ),
    Hook(
        "accelerate:Accelerator.deepspeed_engine_wrapped",
        _BASE,
        "read: DeepSpeed's engine",
        in_source=True,
    ),
    Hook(
        "accelerate.utils.deepspeed:DeepSpeedEngineWrapper.backward",
        _GRADIENTS,
        "replaced: the gradients are judged between the engine's `backward` and its `step`",
        ("(self, loss, sync_gradients=True, **kwargs)",),
    ),
    Hook(
        f"{_ENGINE}.set_gradient_accumulation_boundary",
        _GRADIENTS,
        "called: as accelerate does before `backward`",
        ("(self, is_boundary)",),
    ),
    Hook(
        f"{_ENGINE}.scale_wrt_gas",
        _GRADIENTS,
        "passed to backward: losses are divided already",
        in_source=True,
    ),
    Hook(
        "deepspeed.comm.comm:cdb",
        "align/trainers/step_times.py",
        "its methods are replaced by ones that are measured: all collective operations go through them",
    ),
    Hook("torch:UntypedStorage._cdata", "align/trainers/activations.py", "read: which tensors share a storage"),
    Hook(
        "torch.nn.parallel:DistributedDataParallel._get_ddp_logging_data",
        "align/trainers/step_times.py",
        "called: how long the average of gradients was waited for",
        ("(self)",),
    ),
    Hook(
        f"{_ENGINE}.save_checkpoint",
        "align/trainers/engine.py",
        "called with `exclude_frozen_parameters` for adapters",
        ("(self, save_dir, tag=None, client_state={}, save_latest=True, exclude_frozen_parameters=False)",),
    ),
    Hook(
        f"{_ENGINE}.load_checkpoint",
        "align/trainers/engine.py",
        "extended: reference log-probabilities come before it, and it reads no pickle that could run code; called "
        "without `load_module_strict` for adapters",
        (
            "(self, load_dir, tag=None, load_module_strict=True, load_optimizer_states=True, "
            "load_lr_scheduler_states=True, load_module_only=False, custom_load_fn=None)",
        ),
    ),
    Hook(
        f"{_ENGINE}.load_module_state_dict",
        _RESHARDING,
        "called: as `load_checkpoint` does, for the states of another number of processes",
        (
            "(self, checkpoint, strict=True, custom_load_fn=None, fetch_z3_params=False, z3_params_to_fetch=None, "
            "allowed_missing_keys=None)",
        ),
    ),
    Hook(
        f"{_ENGINE}._get_zero_param_shapes",
        _RESHARDING,
        "called: the weights in the order in which ZeRO-3 stores them",
        ("(self)",),
    ),
    Hook(
        f"{_ZERO_3}.load_state_dict",
        _RESHARDING,
        "called: with the states of this process, by its number",
        (
            "(self, state_dict_list, load_optimizer_states=True, load_from_fp32_weights=False, "
            "checkpoint_folder=None, load_serial=None, param_shapes=None)",
        ),
    ),
    *(
        Hook(f"{_ZERO_3}.{name}", _RESHARDING, "read: how states are divided", in_source=True)
        for name in ("fp32_partitioned_groups_flat", "sub_group_to_group_id", "partition_count", "swap_optimizer")
    ),
    Hook("deepspeed.ops:__compatible_ops__", "align/trainers/extensions.py", "set: an extension is not compiled"),
    # Models
    Hook(f"{_MODEL}._hf_peft_config_loaded", "align/models/adapters.py", "set and read: an adapter is attached"),
    Hook(f"{_MODEL}._tied_weights_keys", _SAVING, "read: names that are saved under another name"),
    Hook(f"{_MODEL}._supports_sdpa", "align/models/exactness.py", "read: which attention is the model's own"),
    Hook(f"{_MODEL}._is_stateful", "align/models/exactness.py", "read: recurrent layers are refused"),
    Hook(
        "transformers:PreTrainedConfig._attn_implementation",
        "align/models/exactness.py",
        "read: whether switching the attention had an effect",
    ),
    Hook(
        f"{_DEEPSPEED}:_hf_deepspeed_config_weak_ref",
        "align/models/fitting.py",
        "read: ZeRO-3 is switched off while a model is built without weights",
    ),
    Hook(
        "transformers.core_model_loading:revert_weight_conversion",
        _SAVING,
        "called: under which names a model's weights would be saved",
        ("(model, state_dict)",),
    ),
    Hook(
        "peft.tuners.tuners_utils:cast_adapter_dtype",
        "align/models/adapters.py",
        "called: adapters are trained in float32",
        ("(model, adapter_name, autocast_adapter_dtype=True)",),
    ),
    Hook(
        "peft.utils.integrations:dequantize_module_weight",
        "align/models/adapters.py",
        "called: DoRA's magnitudes are compared with the norms of the base's weights",
        ("(module)",),
    ),
    Hook(
        "peft.utils.integrations:gather_params_ctx",
        "align/models/adapters.py",
        "called: whole weights under ZeRO-3",
        ("(param, modifier_rank=0, fwd_module=None)",),
    ),
    # Attention
    Hook(
        "deepspeed.sequence.layer:DistributedAttention.forward",
        "align/tree/sequence_parallel.py",
        "called with tensors of one packed row, batch first",
        ("(self, query, key, value, batch_dim_idx, rotary_pos_emb=None, *args, **kwargs)",),
    ),
    Hook(
        "transformers.integrations.sdpa_attention:sdpa_attention_forward",
        _ATTENTION,
        "called for rows without a layout",
        (
            "(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, "
            "position_bias=None, cache=None, **kwargs)",  # 5.23
            "(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, "
            "position_bias=None, **kwargs)",  # 5.24
        ),
    ),
    Hook(
        "transformers.integrations.flex_attention:flex_attention_forward",
        _ATTENTION,
        "called with a block mask of packed trees",
        (
            "(module, query, key, value, attention_mask, scaling=None, softcap=None, s_aux=None, "
            "position_bias=None, **kwargs)",
        ),
    ),
    Hook(
        "torch.ops.aten:_scaled_dot_product_flash_attention_for_cpu",
        _ATTENTION,
        "called: the only CPU attention that returns the log-sum-exp",
        (
            "(Tensor query, Tensor key, Tensor value, float dropout_p=0., bool is_causal=False, *, "
            "Tensor? attn_mask=None, float? scale=None) -> (Tensor output, Tensor logsumexp)",
        ),
    ),
    Hook(
        "torch.ops.aten:_scaled_dot_product_flash_attention_for_cpu_backward",
        _ATTENTION,
        "called: its backward pass",
        (
            "(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, float dropout_p, "
            "bool is_causal, *, Tensor? attn_mask=None, float? scale=None) -> "
            "(Tensor grad_query, Tensor grad_key, Tensor grad_value)",
        ),
    ),
)


def changes(hooks: Sequence[Hook] = HOOKS) -> list[str]:
    """What the installed libraries have changed: one line for each hook that differs, with the file to adapt."""
    return [
        f"{hook.name} {change} (used in {hook.where_used}: {hook.why})" for hook in hooks for change in _change(hook)
    ]


def _change(hook: Hook) -> list[str]:
    module, _, path = hook.name.partition(":")
    owner_path, _, attribute = path.rpartition(".")
    owner = _module(module)
    for part in owner_path.split(".") if owner_path else ():
        owner = getattr(owner, part)
    if hook.in_source:
        return [] if attribute in inspect.getsource(owner) else ["is not in the source of its class"]
    if not hasattr(owner, attribute):
        return ["does not exist"]
    found = [] if not hook.signatures else _other_signature(getattr(owner, attribute), hook)
    for caller in hook.callers:
        method = getattr(owner, caller, None)
        if method is None or f"self.{attribute}(" not in inspect.getsource(method):
            found.append(f"is not called by {caller}")
    return found


def _module(name: str) -> Any:
    if name == "torch.ops.aten":  # an object, no module
        import torch

        return torch.ops.aten
    return importlib.import_module(name)


def _other_signature(function: Any, hook: Hook) -> list[str]:
    signature = signature_of(function)
    return (
        []
        if signature in hook.signatures
        else [f"has the signature {signature}, expected {' or '.join(hook.signatures)}"]
    )


def signature_of(function: Any) -> str:
    """Parameters with their defaults, without types, which may be written differently; of an operator its schema."""
    if hasattr(function, "default"):
        schema = str(function.default._schema)
        return schema[schema.index("(") :]
    parameters = inspect.signature(function).parameters.values()
    return f"({', '.join(str(each.replace(annotation=inspect.Parameter.empty)) for each in parameters)})"


def main() -> int:
    """Print the changes and the versions. Returns the number of changes."""
    found = changes()
    libraries = ("torch", "transformers", "accelerate", "deepspeed", "peft")
    installed = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
    print("\n".join([*found, f"{len(HOOKS)} hooks, {len(found)} changed ({installed})"]))
    return len(found)


if __name__ == "__main__":
    raise SystemExit(1 if main() else 0)
