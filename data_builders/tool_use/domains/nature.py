"""Sky, sea, air, animals and plants: apart from plain sums, stand-ins for services whose readings are made up."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice

# fmt: off
PLANTS = ("monstera", "peace lily", "snake plant", "basil", "orchid", "jade plant", "boston fern", "rubber tree")
# fmt: on


def pollen_forecast(place: str, plant: Literal["birch", "grass", "hazel", "ragweed"], day: str) -> str:
    """How much pollen of a plant is expected.

    Args:
        place: Town or region.
        plant: The plant that sheds the pollen.
        day: Day of the forecast (YYYY-MM-DD).
    """
    return made_up_choice(("none", "low", "moderate", "high", "very high"), place, plant, day)


def fine_dust_reading(station: str, size: str, at: str = "12:00") -> float:
    """Fine dust that a station measured, in micrograms per cubic meter.

    Args:
        station: Name of the measuring station.
        size: Size of the particles: PM10 or PM2.5.
        at: Time of the reading, HH:MM. Default is 12:00.
    """
    if size not in ("PM10", "PM2.5"):
        raise ValueError(f"size {size!r} is not measured; ask for PM10 or PM2.5")
    return made_up(30, 700, station, size, at) / 10


def share_of_limit(micrograms: float, limit: float = 50) -> float:
    """Fine dust in percent of the value that is allowed.

    Args:
        micrograms: Dust in micrograms per cubic meter.
        limit: Allowed value in the same unit, 50 by default.
    """
    return round(micrograms / limit * 100, 1)


def tide_time(harbor: str, tide_day: str, tide: Literal["high", "low"] = "high") -> dict:
    """First high or low water of a day in a harbor.

    Args:
        harbor: Name of the harbor.
        tide_day: Date as YYYY-MM-DD.
        tide: Which tide is wanted. Default is high.
    """
    hour, minute = made_up(0, 11, harbor, tide_day, tide), made_up(10, 59, tide, harbor, tide_day)
    meters = made_up(21, 58, harbor, tide_day) / 10 if tide == "high" else made_up(1, 15, harbor, tide_day) / 10
    return {"time": f"{hour:02d}:{minute}", "meters": meters}


def keel_clearance(tide_meters: float, chart_depth: float, draft: float) -> float:
    """Water under the keel of a boat, in meters.

    Args:
        tide_meters: Height of the tide above chart datum.
        chart_depth: Depth on the chart in meters.
        draft: Draft of the boat in meters.
    """
    return round(tide_meters + chart_depth - draft, 2)


def avalanche_level(mountain_area: str, elevation: int, slope: Literal["north", "east", "south", "west"]) -> int:
    """Avalanche danger from 1 (low) to 5 (extreme).

    Args:
        mountain_area: Name of the massif or region.
        elevation: Height in meters above sea level.
        slope: Direction that the slope faces.
    """
    return min(5, made_up(1, 3, mountain_area, slope) + (elevation > 1800) + (elevation > 2600))


def species_sightings(species: str, park: str, months: list[str]) -> int:
    """Number of times a species was seen in a park in the given months.

    Args:
        species: Common name of the animal, such as "red fox".
        park: Name of the park.
        months: English names of the months.
    """
    return sum(made_up(0, 18, species, park, month) for month in months)


def identify_track(print_cm: float, toes: Literal[2, 4, 5], claws_visible: bool = False) -> str:
    """Say which animal may have left a footprint.

    Args:
        print_cm: Length of the print in centimeters.
        toes: How many toes can be counted.
        claws_visible: Whether claw marks can be seen.
    """
    if toes == 2:
        return "roe deer" if print_cm < 5 else "wild boar"
    if toes == 5:
        return "pine marten" if print_cm < 5 else "badger" if claws_visible else "otter"
    return ("red fox" if print_cm < 7 else "gray wolf") if claws_visible else "hare" if print_cm < 6 else "lynx"


def watering_plan(houseplant: str, pot_cm: int, sunny: bool = False) -> dict:
    """How often and how much to water a plant in a pot.

    Args:
        houseplant: Common name of the plant.
        pot_cm: Diameter of the pot in centimeters.
        sunny: True if it stands in full sun.
    """
    return {"every_days": max(2, made_up(4, 14, houseplant) - (3 if sunny else 0)), "milliliters": pot_cm * pot_cm}


def name_plant(leaf_shape: Literal["round", "needle", "heart", "lobed"], flower_color: str, height_cm: int = 40) -> str:
    """Guess a houseplant from its looks.

    Args:
        leaf_shape: Shape of the leaves.
        flower_color: Color of the flowers.
        height_cm: Height in centimeters, 40 if not given.
    """
    return made_up_choice(PLANTS, leaf_shape, flower_color, height_cm > 100)


def trunk_age(girth_cm: float, tree: Literal["oak", "beech", "linden", "spruce"]) -> int:
    """Estimate the age of a tree in years from the girth of its trunk.

    Args:
        girth_cm: Girth at chest height in centimeters.
        tree: Kind of tree.
    """
    return round(girth_cm * {"oak": 0.8, "beech": 0.6, "linden": 0.7, "spruce": 0.45}[tree])


def shower_peak(meteor_shower: str, year: int) -> str:
    """Night on which a meteor shower is strongest, as a date.

    Args:
        meteor_shower: Name of the shower.
        year: Four-digit year.
    """
    return f"{year}-{made_up(1, 12, meteor_shower):02d}-{made_up(1, 28, meteor_shower, year):02d}"


def night_sky_clarity(site: str, night: str, hour: int = 23) -> dict:
    """Cloud cover and moonlight at a place for stargazing.

    Args:
        site: Where one wants to observe.
        night: Date of the evening, YYYY-MM-DD.
        hour: Hour of the day from 0 to 23. Default is 23.
    """
    return {"cloud_percent": made_up(0, 100, site, night, hour), "moon_percent": made_up(0, 100, night)}
