"""Say what each stage of a config needs before it is started: memory, disk, speed and hours.

python recipes/plan.py recipes/configs/dpo/llama3.1-8b.yaml --gpus 8 --gib 80
python recipes/plan.py recipes/configs/plan/llama3.1-70b.yaml

The first argument may be the config that is planned, or a YAML file with `config`, as for every recipe.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from align.config import Recipe, main
from align.planner.settings import MachineConfig, RowsConfig
from align.settings import InputPath, OutputPath
from align.strict_yaml import read_yaml


class PlanRecipe(Recipe, MachineConfig, RowsConfig):
    """What each stage of a config needs, from shapes alone: no weight and no row is read. It exits with 1 if a stage
    does not fit, and names settings with which it would."""

    argument: ClassVar[str] = "config"

    @classmethod
    def is_argument(cls, word: str) -> bool:
        """A YAML file is the config that is planned if it names none in `config`, and is in the folder of another
        recipe or has a section that is not of a plan. Its own settings have single values: one that is misspelled is
        not taken for a section."""
        file = Path(word)
        if not file.is_file():
            return False
        values, folder = read_yaml(file)[0], file.absolute().parent.name
        if "config" in values or folder == "plan":
            return False
        sections = {name for name, value in values.items() if isinstance(value, dict | list) and name.isidentifier()}
        return Path(__file__).with_name(f"{folder}.py").is_file() or not sections <= cls.model_fields.keys()

    config: InputPath
    """The YAML of a recipe, or a file of rounds."""
    recipe: str | None = None
    """The recipe that reads it. None: the name of the folder that it is in."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings over those of the config: `set.data.token_budget=8192`."""
    launch: Path | None = None
    """The launch file of a training recipe. None: recipes/launch/zero3.yaml for several GPUs. Files of rounds name
    those of their stages."""
    shape: str | None = None
    """The shape of models that are not on this machine and whose path names none that is known: a name such as
    llama3.1-8b, or a folder with config.json."""
    output: OutputPath | None = None
    """Write the plans as JSON."""
    markdown: OutputPath | None = None
    """Write them as a table for a page."""


def run(recipe: PlanRecipe) -> list[Any]:
    """Print the plans, write them, and return them. Raises AlignError if a stage does not fit."""
    from align.files import write_text
    from align.planner.report import markdown, require_fit, table
    from align.planner.stages import plans

    found = plans(
        recipe.config,
        Path(__file__).parent,
        recipe,
        recipe,
        recipe=recipe.recipe,
        settings=recipe.set,
        launch=recipe.launch,
        shape=recipe.shape,
    )
    print(table(found))
    if recipe.output is not None:
        write_text(recipe.output, json.dumps(list(map(dataclasses.asdict, found)), indent=1) + "\n")
    if recipe.markdown is not None:
        write_text(recipe.markdown, markdown(found) + "\n")
    require_fit(found)
    return found


if __name__ == "__main__":
    main(PlanRecipe, run)
