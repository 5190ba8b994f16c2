"""Questions about the chemical elements: symbol, atomic number, place in the periodic table, and atomic weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.rows import QuestionRow
from data_builders.packaged import ELEMENTS, Element
from data_builders.questions.facts.fact import DEFAULT_OPTIONS, Fact, QuestionOptions, add_questions
from data_builders.questions.facts.wordings import Relation
from data_builders.row_set import RowSet

WEIGHT_TOLERANCE = 0.01
"""An answer within this ratio of the atomic weight is right: 56 is accepted for iron (55.845)."""

_SPELLINGS = {"Aluminum": ("Aluminium",), "Cesium": ("Caesium",), "Sulfur": ("Sulphur",)}
# Chemists disagree on which of these four elements are in the third group.
_UNSETTLED_GROUPS = {"La", "Lu", "Ac", "Lr"}


def element_questions(elements: Sequence[Element], options: QuestionOptions = DEFAULT_OPTIONS) -> RowSet[QuestionRow]:
    """Make the questions about each chemical element."""
    found: RowSet[QuestionRow] = RowSet()
    for element in elements:
        for fact in element_facts(element):
            add_questions(fact, options, found)
    return found


def element_facts(element: Element) -> Iterator[Fact]:
    """Yield the facts of an element. Rare earths have no group, and elements without stable isotopes no weight."""
    names = (element.name, *_SPELLINGS.get(element.name, ()))
    has_group = element.group is not None and element.symbol not in _UNSETTLED_GROUPS
    weight = None if element.is_radioactive else element.weight
    answers: dict[Relation, tuple[str, ...]] = {
        "symbol": (element.symbol,),
        "element_of_symbol": names,
        "atomic_number": (str(element.number),),
        "element_of_number": names,
        "period": (str(element.period),),
        "group": (str(element.group),) if has_group else (),
        "atomic_weight": (f"{weight:g}",) if weight else (),
    }
    for relation, accepted in answers.items():
        yield Fact(
            source=ELEMENTS,
            topic="elements",
            entity=element.name,
            relation=relation,
            answers=accepted,
            slots={"name": element.name.lower(), "symbol": element.symbol, "number": str(element.number)},
            tolerance=WEIGHT_TOLERANCE if relation == "atomic_weight" else 0.0,
        )
