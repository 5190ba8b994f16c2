"""Solutions, gases, reactions, genetics, growth and ecology. `sightings_in` stands in for an observation database: its
results are made up."""

from __future__ import annotations

import math
import random
import re
from typing import Literal

from data_builders.tool_use.dialogs.samplers import Sampler, Value, decimal, one_of, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up

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


def _strand(start: str, letters: str) -> Sampler:
    """Whole codons, of which the first is given."""

    def sample(rng: random.Random) -> Value:
        strand = start + "".join(rng.choice(letters) for _ in range(3 * rng.randint(2, 7)))
        return Value(strand, strand)

    return sample


FORMULAS = one_of("NaCl", "C6H12O6", "KOH", "CaCl2", "H3PO4", "CuSO4", "AgNO3", "C2H5OH", "NaHCO3", "FeCl3", "NaOH")
SPECIES = one_of(
    "grey heron", "red fox", "kingfisher", "fire salamander", "pine marten", "osprey", "hoopoe", "roe deer"
)
RESERVES = one_of("Willow Marsh", "Eagle Ridge", "Salt Flats Reserve", "Blackwater Fen", "Heron Lake", "Birch Moor")
GENOTYPES = one_of("AA", "Aa", "aa")
CONCENTRATIONS = one_of(0.5, 0.2, 0.1, 0.05, 0.025, 0.01, 0.004, 0.001, 0.0005)
INDICATORS = one_of("litmus", "phenolphthalein", "methyl orange", "bromothymol blue")

TASKS = (
    Task(
        formula_weight,
        arguments={"formula": FORMULAS},
        queries=(
            "What is the molar mass of {formula}?",
            "{formula}: grams per mole?",
            "I have a bottle labeled {formula} and need to know what one mole of it weighs.",
            "Work out how heavy a mole of {formula} is, please.",
        ),
        answers=("The molar mass is {result} g/mol.", "One mole weighs {result} grams."),
        names=("molar_mass_from_formula", "grams_per_mole", "compound_weight"),
        parameters={"formula": ("compound", "chemical_formula")},
        slips={"formula": (("table salt", "NaCl"), ("sulfuric acid", "H2SO4"), ("glucose", "C6H12O6"))},
    ),
    Task(
        grams_to_weigh_in,
        arguments={"molar_mass": decimal(30, 350, 2), "molarity": decimal(0.05, 3, 2), "milliliters": whole(50, 2000)},
        queries=(
            "How many grams of a substance with {molar_mass} g/mol do I need for {milliliters} ml at {molarity} mol/l?",
            "{milliliters} ml of a {molarity} molar solution, molar mass {molar_mass}: grams?",
            "My {milliliters} ml of buffer should be {molarity} M. Its salt has {molar_mass} g/mol. What mass is that?",
            "Mass for a solution, please. Molarity {molarity}, molar mass {molar_mass} g/mol, volume {milliliters} ml.",
        ),
        answers=("Weigh in {result} g.", "You need {result} grams."),
        names=("mass_for_solution", "solute_grams", "weigh_in_amount"),
        parameters={"molar_mass": ("grams_per_mol",), "molarity": ("target_molarity",), "milliliters": ("volume_ml",)},
    ),
    Task(
        stock_to_dilute,
        arguments={"stock_percent": whole(30, 98), "wanted_percent": decimal(1, 25), "final_ml": whole(100, 5000)},
        queries=(
            "How do I make {final_ml} ml of {wanted_percent}% solution from a {stock_percent}% stock?",
            "stock {stock_percent}%, wanted {wanted_percent}%, final volume {final_ml} ml",
            "The cleaner has {stock_percent} percent. How do I get {final_ml} ml at {wanted_percent} percent?",
            "Dilute from {stock_percent} % to {wanted_percent} %, giving {final_ml} milliliters in the end.",
        ),
        answers=(
            "Take {stock_ml} ml of stock and {water_ml} ml of water.",
            "{stock_ml} ml stock, {water_ml} ml water.",
        ),
        names=("dilution_recipe", "mix_from_stock", "dilute_solution"),
        parameters={"stock_percent": ("stock",), "wanted_percent": ("target",), "final_ml": ("volume", "total_ml")},
    ),
    Task(
        strong_ph,
        arguments={"concentration": CONCENTRATIONS, "kind": one_of("acid", "base")},
        queries=(
            "What pH does a strong {kind} of {concentration} mol/l have?",
            "pH of hydrochloric acid at {concentration} mol per liter?",
            "strong {kind}, {concentration} M, pH please",
            Query("I have lye, a strong base, at {concentration} mol/l. What pH is that?", {"kind": "base"}),
        ),
        answers=("The pH is {result}.", "It has a pH of {result}."),
        names=("ph_of_strong_solution", "compute_ph", "solution_ph"),
        parameters={"concentration": ("mol_per_liter", "strength"), "kind": ("solution_type",)},
    ),
    Task(
        indicator_color,
        arguments={"ph": decimal(1, 13), "indicator": INDICATORS},
        queries=(
            "Which color does {indicator} have at pH {ph}?",
            "pH {ph} + {indicator} = what color?",
            "We dripped {indicator} into a solution of pH {ph} at school. What should we have seen?",
            "Tell me the color that {indicator} turns at a pH of {ph}.",
        ),
        answers=("It is {result}.", "The color is {result}."),
        names=("color_at_ph", "ph_indicator", "indicator_reading"),
        parameters={"ph": ("ph_value",), "indicator": ("dye", "substance")},
    ),
    Task(
        cylinder_pressure,
        arguments={"moles": decimal(0.2, 40), "volume_liters": decimal(1, 60), "celsius": whole(-20, 90)},
        queries=(
            "What pressure do {moles} mol of gas have in {volume_liters} liters?",
            "{moles} mol, {volume_liters} l, {celsius} °C -> kPa",
            "A steel bottle of {volume_liters} liters holds {moles} moles of helium and lies in the sun at {celsius} "
            "degrees Celsius. What is the pressure in it?",
            "At {celsius} °C, find the pressure of {moles} mol of an ideal gas confined to {volume_liters} liters.",
        ),
        answers=("The pressure is {result} kPa.", "It is under {result} kilopascals."),
        names=("ideal_gas_kilopascals", "vessel_pressure", "gas_bottle_pressure"),
        parameters={"moles": ("amount_mol", "n"), "volume_liters": ("volume",), "celsius": ("temperature",)},
    ),
    Task(
        offspring_share,
        arguments={"mother": GENOTYPES, "father": GENOTYPES, "trait": one_of("dominant", "recessive")},
        queries=(
            "Mother {mother}, father {father}: what percentage of the offspring shows the {trait} trait?",
            Query("{mother} mother and {father} father: how many percent are carriers?", {"trait": "carrier"}),
            "cross: {mother} (mother) x {father} (father), share with the {trait} trait?",
            "I breed rabbits. Mother is {mother}, father {father}. How often will the {trait} trait show?",
        ),
        answers=("It is {result} percent of the offspring.", "{result}% on average."),
        names=("cross_result", "inheritance_percent", "punnett_share"),
        parameters={
            "mother": ("mother_genotype", "female"),
            "father": ("father_genotype", "male"),
            "trait": ("wanted",),
        },
        slips={"mother": (("heterozygous", "Aa"), ("aA", "Aa"))},
    ),
    Task(
        transcribe_template,
        arguments={"template": _strand("TAC", "ACGT")},
        queries=(
            "Which mRNA is made along the template strand {template}?",
            "transcribe {template}",
            "The sequencer gave me this template: {template}. I'd like its messenger RNA.",
            "Template DNA {template}; write down the RNA.",
        ),
        answers=("The mRNA is {result}.", "It is transcribed to {result}."),
        names=("dna_to_mrna", "make_mrna", "template_to_rna"),
        parameters={"template": ("dna", "template_strand")},
    ),
    Task(
        peptide_of,
        arguments={"mrna": _strand("AUG", "ACGU")},
        queries=(
            "Translate the mRNA {mrna} into amino acids.",
            Query("Which peptide does {mrna} give if you read past stop codons?", {"stop_at_stop": False}),
            "mRNA: {mrna}; peptide?",
            "For my biology homework I have {mrna}. What chain of amino acids does a ribosome make of it?",
        ),
        answers=("The peptide is {result}.", "It translates to {result}."),
        names=("translate_mrna", "amino_acids_from_rna", "ribosome"),
        parameters={"mrna": ("rna", "sequence"), "stop_at_stop": ("halt_at_stop_codon",)},
    ),
    Task(
        culture_size,
        arguments={"cells": whole(50, 20000), "doubling_minutes": whole(18, 90), "hours": decimal(1, 9)},
        queries=(
            "{cells} bacteria double every {doubling_minutes} minutes. How many are there after {hours} hours?",
            "start {cells} cells, doubling {doubling_minutes} min, {hours} h",
            "I left milk out for {hours} hours. It held {cells} germs, doubling in {doubling_minutes} minutes. Now?",
            "Cells in my flask after {hours} h, with {cells} at first and doubling each {doubling_minutes} min?",
        ),
        answers=("There are {result} cells.", "The culture has grown to {result} cells."),
        names=("cells_after_growth", "bacteria_after", "grow_culture"),
        parameters={"cells": ("start_count", "n0"), "doubling_minutes": ("doubling_time",), "hours": ("duration",)},
    ),
    Task(
        population_by_recapture,
        arguments={"tagged": whole(40, 300), "caught_later": whole(40, 200), "tagged_among_them": whole(4, 35)},
        queries=(
            "We tagged {tagged} carp. Later we caught {caught_later}, {tagged_among_them} with tags. How many carp?",
            "tagged {tagged}, caught later {caught_later}, marked among these {tagged_among_them}: population?",
            "Beetles: {tagged} marked, then {caught_later} trapped, {tagged_among_them} of them marked. Estimate?",
            "Of {caught_later} voles caught today, {tagged_among_them} wore one of our {tagged} tags. Population?",
        ),
        answers=("About {result} animals live there.", "The estimate is {result} animals."),
        names=("mark_and_recapture", "estimate_population", "tag_estimate"),
        parameters={
            "tagged": ("marked_first",),
            "caught_later": ("second_catch",),
            "tagged_among_them": ("recaptured",),
        },
    ),
    Task(
        sightings_in,
        arguments={"species": SPECIES, "reserve": RESERVES, "year": whole(2012, 2024)},
        queries=(
            "How often was the {species} seen in {reserve} in {year}?",
            "species: {species}, reserve: {reserve}, year: {year}, sightings?",
            "I'm writing about {reserve}. Look up how many records of the {species} there are from {year}.",
            "In {year}, how many times did visitors to {reserve} report a {species}?",
        ),
        answers=("There were {result} sightings.", "The database has {result} records."),
        names=("count_sightings", "wildlife_records", "lookup_observations"),
        parameters={"species": ("animal", "common_name"), "reserve": ("park", "site"), "year": ("in_year",)},
    ),
    Task(
        animals_per_hectare,
        arguments={"animals": whole(10, 4000), "hectares": decimal(2, 700)},
        queries=(
            "{animals} deer live on {hectares} hectares. How dense is that?",
            "density: {animals} animals, {hectares} ha",
            "How many animals come to one hectare if {animals} share {hectares} hectares?",
            "Our forest has {hectares} ha and the count found {animals} hares. Give me the number per hectare.",
        ),
        answers=("There are {result} animals per hectare.", "The density is {result} per hectare."),
        names=("population_density_ha", "wildlife_density", "density_of_animals"),
        parameters={"animals": ("count", "population"), "hectares": ("area_ha",)},
    ),
)

CHAINS = (
    Chain(
        formula_weight,
        grams_to_weigh_in,
        feeds="molar_mass",
        queries=(
            "How many grams of {formula} do I need for {milliliters} ml of a {molarity} molar solution?",
            "{milliliters} ml {formula}, {molarity} mol/l: weigh in how much?",
            "I have to prepare {milliliters} ml of {formula} at {molarity} M. What mass do I put on the scale?",
        ),
        between=("Its molar mass is {given} g/mol.", "One mole weighs {given} g. Now the mass."),
        answers=("Weigh in {result} g.", "With {given} g/mol you need {result} grams."),
    ),
    Chain(
        strong_ph,
        indicator_color,
        feeds="ph",
        queries=(
            "Which color does {indicator} turn in a strong {kind} of {concentration} mol/l?",
            "{indicator} in nitric acid of {concentration} mol/l: color?",
            "I add {indicator} to a strong {kind}, {concentration} M. What do I see?",
        ),
        between=("The pH is {given}.", "At that concentration the pH is {given}. Now the color."),
        answers=("It turns {result}.", "At pH {given} the color is {result}."),
    ),
    Chain(
        transcribe_template,
        peptide_of,
        feeds="mrna",
        queries=(
            "Which peptide does the template strand {template} code for?",
            "From template {template} to RNA to amino acids, please.",
            Query("Transcribe {template} and translate it, past any stop codon.", {"stop_at_stop": False}),
        ),
        between=("The mRNA is {given}.", "It is transcribed to {given}; next comes the peptide."),
        answers=("The peptide is {result}.", "{given} is translated to {result}."),
    ),
    Chain(
        population_by_recapture,
        animals_per_hectare,
        feeds="animals",
        queries=(
            "{tagged} newts tagged, {caught_later} caught later, {tagged_among_them} with tags. Per ha of {hectares}?",
            "{tagged} mice marked, then {caught_later} caught, {tagged_among_them} marked. Density on {hectares} ha?",
            "Density on {hectares} hectares, from tagging: {tagged} at first, {caught_later} caught later, of which "
            "{tagged_among_them} tagged",
        ),
        between=("The population is about {given}.", "I estimate {given} animals. Now the density."),
        answers=("That is {result} per hectare.", "{given} animals make {result} per hectare."),
    ),
    Chain(
        sightings_in,
        animals_per_hectare,
        feeds="animals",
        queries=(
            "How many sightings of the {species} per hectare were there in {reserve} in {year}? It has {hectares} ha.",
            "{reserve} covers {hectares} hectares. Take its {species} records of {year} and give me them per hectare.",
            "species {species}, reserve {reserve}, year {year}, area {hectares} ha: sightings per hectare?",
        ),
        between=("There were {given} sightings.", "The database has {given} records; now per hectare."),
        answers=("That makes {result} per hectare.", "{given} sightings are {result} per hectare."),
    ),
)
