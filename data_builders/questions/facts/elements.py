"""Questions about the chemical elements: symbol and atomic number both ways, place in the periodic table, weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.rows import QuestionRow
from data_builders.packaged import ELEMENTS, Element
from data_builders.questions.facts.fact import ASKING, Asking, Fact, ask
from data_builders.questions.facts.wordings import Relation
from data_builders.row_set import Counted

WEIGHT_TOLERANCE = 0.01
"""An answer so near is right: whoever says 56 for iron knows it."""

_SPELLINGS = {"Aluminum": ("Aluminium",), "Cesium": ("Caesium",), "Sulfur": ("Sulphur",)}
# Which of these four stand in the third group is not settled.
_UNSETTLED_GROUPS = {"La", "Lu", "Ac", "Lr"}


def element_questions(elements: Sequence[Element], asking: Asking = ASKING) -> Counted[QuestionRow]:
    """What is asked of each chemical element."""
    found: Counted[QuestionRow] = Counted()
    for element in elements:
        for fact in element_facts(element):
            ask(fact, asking, found)
    return found


def element_facts(element: Element) -> Iterator[Fact]:
    """Group and weight have no answer where there is none: rare earths, elements without stable isotopes."""
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
