"""Build the rows that training and evaluation read, with one builder.

python recipes/build_data.py recipes/configs/data/rehearsal.yaml
python recipes/build_data.py recipes/configs/data/preferences.yaml preferences.path=my_pairs.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import create_model, model_validator

from align.config import Recipe, dump, main
from align.settings import OutputPath
from data_builders.catalog import BUILDERS, build_function, config_class, uses_model

if TYPE_CHECKING:
    from align.sampling.workers import Workers


class BuildDataRecipe(Recipe):
    """Exactly one section, named for a builder, and the folder that the builder fills."""

    output: OutputPath
    """The folder that the files are written into, each with its manifest."""

    @classmethod
    def catalogue(cls) -> dict[str, str]:
        return {name: builder.summary for name, builder in BUILDERS.items()}

    @classmethod
    def for_values(cls, values: Mapping[str, Any]) -> type[Recipe]:
        """This class with the section of the builder that `values` name: only that builder is imported."""
        given = [name for name in BUILDERS if values.get(name) is not None]
        if len(given) == 1:
            sections: dict[str, Any] = {given[0]: (config_class(given[0]), ...)}
            sections |= {name: (None, None) for name in BUILDERS if name in values and name != given[0]}
        else:  # `_has_one_builder` refuses it, and names the builders
            sections = {name: (Any, None) for name in BUILDERS}
        return create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, __module__=cls.__module__, **sections)

    @model_validator(mode="after")
    def _has_one_builder(self) -> Self:
        given = [name for name in BUILDERS if getattr(self, name, None) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"expected exactly one builder section ({', '.join(BUILDERS)}), found {found}")
        return self

    @property
    def builder(self) -> str:
        """The name of the one section that is given."""
        return next(name for name in BUILDERS if getattr(self, name, None) is not None)

    def code_modules(self) -> tuple[str, ...]:
        return build_function(self.builder).__module__, type(getattr(self, self.builder)).__module__


def run(recipe: BuildDataRecipe) -> Path:
    """Build, and return the folder."""
    from align.files import sole_writer
    from align.records import require_sources
    from align.sampling.workers import joined, require_one_process

    last_file = BUILDERS[recipe.builder].last_file
    if not last_file:
        require_one_process("build_data", f"the builder {recipe.builder}")
    require_sources(recipe)
    if not last_file:
        with sole_writer(recipe.output, "output"):
            return _run(recipe)
    settings = dump(recipe.model_copy(update={"output": Path()}))  # nodes may have the folder under other names
    with joined(recipe.output, "output", settings, last_file=last_file) as workers:
        return _run_shared(recipe, workers)


def _run(recipe: BuildDataRecipe) -> Path:
    from align.precision import resolved

    recipe = resolved(recipe, recipe.output)
    return build_function(recipe.builder)(getattr(recipe, recipe.builder), recipe.output)


def _run_shared(recipe: BuildDataRecipe, workers: Workers) -> Path:
    from align.precision import resolved

    if uses_model(getattr(recipe, recipe.builder)):  # otherwise there is no precision to decide, and no torch to load
        from align.models.devices import use_own_gpu

        use_own_gpu()
        with workers.turn():  # the first process decides, and the others read its decision
            recipe = resolved(recipe, recipe.output)
    return build_function(recipe.builder)(getattr(recipe, recipe.builder), recipe.output, workers=workers)


if __name__ == "__main__":
    main(BuildDataRecipe, run)
