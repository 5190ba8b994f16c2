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

PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "GH200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "A40": 150,
    "A10": 125,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "MI300X": 1307,
    "MI250X": 383,
}
"""Part of a device's name -> products of bfloat16 matrices without sparsity, in 10^12 operations a second, by the data
sheets of the makers. RTX: with sums in float32."""

_SYSCTL = {"hw.optional.avx2_0": "avx2", "hw.optional.neon": "asimd", "hw.optional.arm.FEAT_BF16": "bf16"}  # macOS


def cpus_of_process() -> int:
    """CPUs for this process: those that it may use, divided by the processes of a launcher on this machine."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, _cpus() // max(1, int(processes) if processes.isdigit() else 1))


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> str:
    """One line, such as `Intel(R) Xeon(R) Gold 6430, 2 cores, avx2 avx512f avx512_bf16 amx_bf16`, and the GPU if a
    process that uses torch sees one."""
    cores = _cpus()
    parts = [cpu_name(), f"{cores} core{'' if cores == 1 else 's'}", " ".join(cpu_instructions()), _gpu()]
    return ", ".join(part for part in parts if part)


def peak_flops(device: str) -> float | None:
    """The peak of an accelerator in bfloat16, in operations a second; None for a device that is not in the table.

    device: its name, as torch gives it. "NVIDIA H100 80GB HBM3" is H100, "NVIDIA A10G" is none: a name counts as whole
    words, and of several the longest.
    """
    words = f" {re.sub(r'[-_/]', ' ', device)} "
    found = [name for name in PEAK_TFLOPS if f" {name} " in words]
    return PEAK_TFLOPS[max(found, key=len)] * 1e12 if found else None


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
