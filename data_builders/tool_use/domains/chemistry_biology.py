"""Solutions, gases, reactions, genetics, growth and ecology. `sightings_in` simulates an observation database: its
results are made up."""

from __future__ import annotations

import math
import random
import re
from typing import Literal

from data_builders.tool_use.made_up import made_up

MASSES = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "Na": 22.99, "Mg": 24.305, "P": 30.974, "S": 32.06,
          "Cl": 35.45, "K": 39.098, "Ca": 40.078, "Fe": 55.845, "Cu": 63.546, "Zn": 65.38, "Ag": 107.868}  # fmt: skip
PEPTIDE_CODES = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"


def formula_weight(formula: str) -> float:
    """Molar mass of a compound in grams per mole.

    Args:
        formula: Chemical formula without brackets, such as C6H12O6.
    """
    pieces = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    if not pieces or "".join(symbol + count for symbol, count in pieces) != formula:
        raise ValueError(f"formula {formula!r} is not understood; write symbols and counts, such as C6H12O6")
    if unknown := [symbol for symbol, _ in pieces if symbol not in MASSES]:
        raise ValueError(f"no mass is known for {unknown[0]}; known symbols: {', '.join(MASSES)}")
    return round(sum(MASSES[symbol] * int(count or 1) for symbol, count in pieces), 3)


def grams_to_weigh_in(molar_mass: float, molarity: float, milliliters: float) -> float:
    """Grams of a substance for a solution.

    Args:
        molar_mass: Molar mass in g/mol.
        molarity: Concentration that is wanted, in mol/l.
        milliliters: Volume of the solution.
    """
    return round(molar_mass * molarity * milliliters / 1000, 4)


def stock_to_dilute(stock_percent: float, wanted_percent: float, final_ml: float) -> dict:
    """How much stock solution and how much water give a weaker solution.

    Args:
        stock_percent: Strength of the stock solution in percent.
        wanted_percent: Strength that is wanted, in percent; not above that of the stock.
        final_ml: Volume of the finished solution in milliliters.
    """
    if wanted_percent > stock_percent:
        raise ValueError("wanted_percent must not be above stock_percent")
    stock = final_ml * wanted_percent / stock_percent
    return {"stock_ml": round(stock, 2), "water_ml": round(final_ml - stock, 2)}


def strong_ph(concentration: float, kind: Literal["acid", "base"] = "acid") -> float:
    """pH of a strong acid or base with one proton or hydroxide.

    Args:
        concentration: Concentration in mol/l.
        kind: Whether it is an acid or a base. Default is "acid".
    """
    return round(-math.log10(concentration) if kind == "acid" else 14 + math.log10(concentration), 2)


def indicator_color(ph: float, indicator: str) -> str:
    """Color of an indicator at a pH.

    Args:
        ph: The pH of the solution.
        indicator: One of litmus, phenolphthalein, methyl orange, bromothymol blue.
    """
    steps = {"litmus": (5, 8, "red", "purple", "blue"), "phenolphthalein": (8.2, 10, "colorless", "pale pink", "pink"),
             "methyl orange": (3.1, 4.4, "red", "orange", "yellow"),
             "bromothymol blue": (6, 7.6, "yellow", "green", "blue")}  # fmt: skip
    if indicator not in steps:
        raise ValueError(f"indicator {indicator!r} is not known; use one of {', '.join(steps)}")
    low, high, below, between, above = steps[indicator]
    return below if ph < low else above if ph > high else between


def cylinder_pressure(moles: float, volume_liters: float, celsius: float = 25) -> float:
    """Pressure in kilopascals of an ideal gas in a closed vessel.

    Args:
        moles: Amount of gas in mol.
        volume_liters: Volume of the vessel in liters.
        celsius: Temperature of the gas. Default is 25.
    """
    return round(moles * 8.314 * (celsius + 273.15) / volume_liters, 2)


def offspring_share(mother: str, father: str, trait: Literal["dominant", "recessive", "carrier"]) -> float:
    """Percentage of the offspring of a cross of one gene that shows or carries a trait.

    Args:
        mother: Genotype of the mother: AA, Aa or aa.
        father: Genotype of the father: AA, Aa or aa.
        trait: Whether the dominant or the recessive trait shows, or one recessive copy is carried.
    """
    for genotype in (mother, father):
        if genotype not in ("AA", "Aa", "aa"):
            raise ValueError(f"genotype {genotype!r} is not understood; use AA, Aa or aa")
    recessives = [(a + b).count("a") for a in mother for b in father]
    wanted = {"dominant": (0, 1), "recessive": (2,), "carrier": (1,)}[trait]
    return 25.0 * sum(count in wanted for count in recessives)


def transcribe_template(template: str) -> str:
    """The messenger RNA that is made along a DNA template strand.

    Args:
        template: Bases of the template strand, read from its 3' end.
    """
    if not template or set(template) - set("ACGT"):
        raise ValueError("template takes the letters A, C, G and T only")
    return template.translate(str.maketrans("ACGT", "UGCA"))


def peptide_of(mrna: str, stop_at_stop: bool = True) -> str:
    """Amino acids, as one-letter codes, for which an mRNA codes from its first base on.

    Args:
        mrna: Bases of the messenger RNA (A, C, G, U).
        stop_at_stop: End at the first stop codon; otherwise it is written as *.
    """
    if not mrna or set(mrna) - set("ACGU"):
        raise ValueError("mrna takes the letters A, C, G and U only")
    codons = [mrna[at : at + 3] for at in range(0, len(mrna) - 2, 3)]
    places = [["UCAG".index(base) for base in codon] for codon in codons]
    peptide = "".join(PEPTIDE_CODES[16 * first + 4 * second + third] for first, second, third in places)
    return peptide.split("*")[0] if stop_at_stop else peptide


def culture_size(cells: int, doubling_minutes: float, hours: float) -> int:
    """Cells in a culture that grows without limits.

    Args:
        cells: Number of cells at the start.
        doubling_minutes: Minutes in which their number doubles.
        hours: Hours of growth.
    """
    return round(cells * 2 ** (hours * 60 / doubling_minutes))


def population_by_recapture(tagged: int, caught_later: int, tagged_among_them: int) -> int:
    """Estimate the size of a population from marked and recaptured animals.

    Args:
        tagged: Animals marked at first.
        caught_later: Animals caught the second time.
        tagged_among_them: How many of these bear a mark.
    """
    if not 0 < tagged_among_them <= caught_later:
        raise ValueError("tagged_among_them must lie between 1 and caught_later")
    return round(tagged * caught_later / tagged_among_them)


def sightings_in(species: str, reserve: str, year: int) -> int:
    """Number of recorded sightings of a species in a nature reserve.

    Args:
        species: Common name of the species.
        reserve: Name of the reserve.
        year: Calendar year.
    """
    return made_up(12, 900, "sightings", species.lower(), reserve.lower(), year)


def animals_per_hectare(animals: int, hectares: float) -> float:
    """Density of animals in an area.

    Args:
        animals: Number of animals.
        hectares: Size of the area in hectares.
    """
    return round(animals / hectares, 4)


def _strand(rng: random.Random, start: str, letters: str) -> str:
    """Whole codons; the first one is given."""
    return start + "".join(rng.choice(letters) for _ in range(3 * rng.randint(2, 7)))
