"""A stand-in for a GPU that computes: its tensors report the device cuda:0 and refuse to meet tensors of the CPU.

    with accelerator():
        model.to("cuda")
        model(torch.tensor([[1, 2]], device="cuda"))  # computed, with the values that a CPU gives
        model(torch.tensor([[1, 2]]))                 # RuntimeError, as on a GPU

So code that forgets to move a model, an input or a mask fails here as it does on a machine with a GPU. Each tensor of
the accelerator holds a tensor of the CPU, on which every operation is computed. `reads` has what was read back to the
CPU, where a GPU would have to finish all work that was queued before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("cuda:0")
_MAY_MIX = (torch.ops.aten.copy_, torch.ops.aten.index)  # as on a GPU: `gpu.copy_(cpu)`, and `gpu[indices on the CPU]`

_READ = {  # results that the CPU must know: a value, or how many values there are
    *(torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select),
    *(torch.ops.aten.equal, torch.ops.aten.unique_consecutive, torch.ops.aten._unique2),
}

reads: list[str] = []
"""What the current `accelerator()` has read back, by the name of the operation."""

_ON_GPUS_ONLY = {torch.ops.aten.mm.dtype: lambda one, other, dtype: one.to(dtype) @ other.to(dtype)}


class RemoteTensor(torch.Tensor):
    """A tensor that reports the device cuda:0. Its values are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> RemoteTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        self.held = held
        return self

    def __repr__(self) -> str:  # type: ignore[override]
        return f"RemoteTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _is_remote(device: Any) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


def _computed(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the values that its tensors hold.

    The result is on the device that the call names, as `tensor.to("cuda")` does. If it names none, the result is remote
    if an argument is.
    """
    remote: dict[int, RemoteTensor] = {}
    local: set[int] = set()
    devices: list[torch.device] = []
    is_mixed = False

    def value(item: Any) -> Any:
        nonlocal is_mixed
        if isinstance(item, torch.device):
            devices.append(item)
            return torch.device("cpu")
        if isinstance(item, RemoteTensor):
            remote[id(item.held)] = item
            return item.held
        if isinstance(item, torch.Tensor):
            local.add(id(item))
            is_mixed |= item.dim() > 0  # a number may come from the CPU
        return item

    args, named = tree_map(value, args), {name: tree_map(value, item) for name, item in kwargs.items()}
    if remote and is_mixed and not devices and getattr(function, "overloadpacket", function) not in _MAY_MIX:
        raise RuntimeError(f"{function}: Expected all tensors to be on the same device, but found cuda:0 and cpu")
    is_remote = devices[0].type == "cuda" if devices else bool(remote)
    if remote and (not is_remote or getattr(function, "overloadpacket", function) in _READ):
        reads.append(str(function))

    def returned(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        if id(item) in remote and (is_remote or not devices):  # changed in place, or there already
            return remote[id(item)]
        if id(item) in local and not (is_remote and devices):
            return item
        item = item.clone() if id(item) in remote or id(item) in local else item  # moved
        return RemoteTensor(item) if is_remote else item

    return tree_map(returned, _ON_GPUS_ONLY.get(function, function)(*args, **named))


class _Operations(TorchDispatchMode):
    """Operations without a remote argument, such as `torch.arange(4, device="cuda")` and `cpu.to("cuda")`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Functions that ask for a device before they dispatch an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, named = tree_map(_with_index, args), dict(tree_map(_with_index, kwargs or {}))
        if func is torch.tensor and _is_remote(named.get("device")):
            del named["device"]
            return torch.tensor(*args, **named).to(DEVICE)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], RemoteTensor):
            index = tree_map(lambda item: item.held if isinstance(item, RemoteTensor) else item, args[1])
            masks = index if isinstance(index, tuple) else (index,)
            if any(isinstance(mask, torch.Tensor) and mask.dtype == torch.bool for mask in masks):
                reads.append("index by a mask")
            if func is torch.Tensor.__getitem__:
                return RemoteTensor(args[0].held[index])
            args[0].held[index] = args[2].held if isinstance(args[2], RemoteTensor) else args[2]
            return None
        if func is torch.Tensor.__invert__:
            return torch.bitwise_not(*args)
        if func is torch.Tensor.tolist and isinstance(args[0], RemoteTensor):
            reads.append("tolist")
            return args[0].held.tolist()
        if func is torch.Tensor.numpy and isinstance(args[0], RemoteTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return func(*args, **named)


def _with_index(item: Any) -> Any:
    """`cuda` as `cuda:0`: a build of torch for CPUs cannot look up which GPU is the current one."""
    return DEVICE if isinstance(item, str | torch.device) and str(item) == "cuda" else item


@contextmanager
def accelerator() -> Iterator[None]:
    """Let torch report one GPU, with bfloat16, whose tensors are `RemoteTensor`s."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, _Functions(), _Operations():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda: "a GPU for tests")
        patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        reads.clear()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # `.to` replaces parameters by remote ones
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
