"""What a run computes on: the processor's name and the instructions that decide how fast it is. No torch is imported.

A figure (seconds, tokens per second) means little without it, so manifests and results of evaluations record it.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

# As /proc/cpuinfo spells them, from plain to wide. `bf16` is ARM's, avx512_bf16 and amx_bf16 are x86's.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
"""Of these one is needed to compute with bfloat16; without any, it is emulated. The fastest comes first."""

_SYSCTL = {"hw.optional.avx2_0": "avx2", "hw.optional.neon": "asimd", "hw.optional.arm.FEAT_BF16": "bf16"}  # macOS


def describe() -> str:
    """One line, such as `Intel(R) Xeon(R) Gold 6430, 2 cores, avx2 avx512f avx512_bf16 amx_bf16`, and the GPU if a
    process that uses torch sees one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [cpu_name(), f"{cores} core{'' if cores == 1 else 's'}", " ".join(cpu_instructions()), _gpu()]
    return ", ".join(part for part in parts if part)


@functools.cache
def cpu_name() -> str:
    """The processor as its maker calls it; the architecture's name if the system does not tell."""
    found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    if found:
        return " ".join(found[1].split())
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "unknown processor"


@functools.cache
def cpu_instructions() -> tuple[str, ...]:
    """Those of `_INSTRUCTIONS` that this processor has, and that a container or hypervisor lets through."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    names = set(found[1].split()) if found else {name for key, name in _SYSCTL.items() if _sysctl(key) == "1"}
    return tuple(name for name in _INSTRUCTIONS if name in names)


@functools.cache
def cpu_vendor() -> str:
    """The maker of an x86 processor, such as AuthenticAMD or GenuineIntel; an empty text for others."""
    found = re.search(r"^vendor_id\s*:\s*(\S+)$", _cpuinfo(), re.MULTILINE)
    return found[1] if found else _sysctl("machdep.cpu.vendor")


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _sysctl(key: str) -> str:
    if sys.platform != "darwin":
        return ""
    done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _gpu() -> str:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
