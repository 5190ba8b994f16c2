"""The plan of one stage: what it needs, and whether that is there."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs. Figures that do not apply are empty, 0 or None."""

    label: str
    recipe: str
    shape: str = ""
    """The model whose shape was taken."""
    where: str = ""
    """Processes and how they share the model: `64 x GPU, zero3_nodes.yaml`."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes of one process, by what they are for."""
    limit: int = 0
    """Bytes that a process has."""
    host: int = 0
    """Bytes in the memory of each node."""
    host_limit: int = 0
    checkpoint: int = 0
    """Bytes of one resumable checkpoint."""
    disk: int = 0
    """Bytes on the disk at most, of checkpoints and the finished model."""
    save_seconds: float = 0.0
    save_share: float = 0.0
    """Of the time of a run that is long enough for several saves, by `save_steps` and `save_minutes`."""
    steps: int = 0
    step_seconds: float = 0.0
    tokens_per_second: float = 0.0
    hours: float = 0.0
    filled: float | None = None
    """Share of the places of packed rows that hold a token."""
    empty: float | None = None
    """Share of a process's passes that have no row of their own."""
    warnings: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """Settings with which it fits, if it does not: each of them was planned too."""

    @property
    def needed(self) -> int:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.needed <= self.limit and self.host <= self.host_limit

    @property
    def sized(self) -> bool:
        """Whether the stage has a model in memory."""
        return bool(self.memory)
