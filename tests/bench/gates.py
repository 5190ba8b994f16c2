"""Whether two arms compute the same thing. No ratio is made of arms that do not.

The loss is compared by its absolute difference over max(1, |loss|). Gradients are compared tensor by tensor: the norm
of the difference over the larger of the two norms, and the worst tensor counts. A tensor whose norm is below a
millionth of the largest tensor's is measured against that instead, since it holds rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

FLOOR = 1e-6


class Bounds(NamedTuple):
    """What may differ."""

    loss: float
    gradient: float


FP32 = Bounds(loss=1e-4, gradient=1e-3)
"""Between any two arms in float32."""

BF16 = Bounds(loss=1e-2, gradient=1e-1)
"""Between an arm in bfloat16 and the float32 result: eight bits of mantissa through every layer, both ways."""

OF_THE_PEERS = 1.5
"""How much farther than the nearest peer an arm may be from the float32 result in bfloat16: thirty layers leave every
arm, TRL's own among them, beyond `BF16`, and then it is they that say how far bfloat16 itself goes."""


class Difference(NamedTuple):
    """How far an arm is from the one it is compared with."""

    loss: float
    gradient: float
    worst_tensor: str


class GateError(Exception):
    """Two arms do not compute the same, so comparing their speed would mean nothing."""


def difference(
    loss: float, gradients: Mapping[str, Tensor], expected_loss: float, expected_gradients: Mapping[str, Tensor]
) -> Difference:
    """Both mappings must have the same names; a gradient that is missing is an error, not a zero."""
    if gradients.keys() != expected_gradients.keys():
        odd = sorted(gradients.keys() ^ expected_gradients.keys())
        raise GateError(f"only one side has a gradient for {', '.join(odd[:4])}")
    if not gradients:
        raise GateError("there are no gradients to compare")
    floor = FLOOR * max(gradient.norm().item() for gradient in expected_gradients.values())
    apart = {}
    for name, expected in expected_gradients.items():
        scale = max(gradients[name].norm().item(), expected.norm().item(), floor)
        distance = (gradients[name].float() - expected.float()).norm().item() / scale if scale else 0.0
        apart[name] = math.inf if math.isnan(distance) else distance
    where = max(apart, key=apart.__getitem__)
    return Difference(loss_difference(loss, expected_loss), apart[where], where)


def loss_difference(loss: float, expected: float) -> float:
    return abs(loss - expected) / max(1.0, abs(expected))


def widened(bounds: Bounds, peers: Mapping[str, Difference]) -> Bounds:
    """The bounds, or what the nearest peer allows where that is more."""
    return Bounds(
        max(bounds.loss, OF_THE_PEERS * min(apart.loss for apart in peers.values())),
        max(bounds.gradient, OF_THE_PEERS * min(apart.gradient for apart in peers.values())),
    )


def require_same(found: Mapping[str, Difference], bounds: Bounds) -> None:
    """Raise GateError, naming every arm that is out of bounds."""
    out = []
    for arm, apart in found.items():
        if not apart.loss <= bounds.loss:
            out.append(f"{arm}: losses differ by {apart.loss:.2g}, expected at most {bounds.loss:g}")
        if not apart.gradient <= bounds.gradient:
            where = f"gradients differ by {apart.gradient:.2g} at {apart.worst_tensor}"
            out.append(f"{arm}: {where}, expected at most {bounds.gradient:g}")
    if out:
        raise GateError("; ".join(out))


def require_same_losses(
    losses: Mapping[str, Sequence[tuple[int, float]]],
    expected: Mapping[int, float],
    bound: float,
    peers: str | None = None,
) -> dict[str, list[float]]:
    """Compare the losses of all timed steps, as (batch, loss), with those expected of each batch, or raise GateError.

    Returns how far each step of each arm was off.

    peers: how the names of the arms begin that say how far bfloat16 goes; an arm may then be half again as far from
        what is expected as the farthest of them in any step. One step says little: its rounding may happen to cancel.
    """
    apart = {
        name: [loss_difference(value, expected[batch]) for batch, value in steps] for name, steps in losses.items()
    }
    if peers is not None:
        of_peers = [one for name, own in apart.items() if name.startswith(peers) for one in own]
        bound = max(bound, OF_THE_PEERS * max(of_peers, default=0.0))
    for name, own in apart.items():
        for step, one in enumerate(own):
            if not one <= bound:
                raise GateError(
                    f"{name}: in timed step {step} its loss is off by {one:.2g}, expected at most {bound:.2g}"
                )
    return apart
