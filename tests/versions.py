"""Print what the tests ran with, as a line for the table in docs/versions.md: processor, Python and main libraries."""

from __future__ import annotations

import datetime
import platform
import sys
from importlib.metadata import version

from align import hardware

LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pyarrow",
    "pydantic",
    "krippendorff",
    "trl",
    "pytest",
)


def main() -> None:
    print(f"{datetime.date.today()}, Python {platform.python_version()}, {hardware.describe()}")
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES))


if __name__ == "__main__":
    sys.exit(main())
