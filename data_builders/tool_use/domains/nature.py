"""Sky, sea, air, animals and plants: apart from plain sums, stand-ins for services whose readings are made up."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.dialogs.samplers import MONTHS, city, clock, date, decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice

# fmt: off
SPECIES = ("red fox", "otter", "badger", "lynx", "roe deer", "pine marten", "wild boar", "beaver", "gray wolf", "hare")
PLANTS = ("monstera", "peace lily", "snake plant", "basil", "orchid", "jade plant", "boston fern", "rubber tree")
HARBORS = ("Port Ellery", "Saltwick", "Grayhaven", "Puerto Claro", "Cape Morrow", "Lunnasund", "Sandy Hook Bay")
PARKS = ("Alder Valley", "Bear Creek", "Three Lakes", "Monte Verde", "Hollow Pines", "Kestrel Marsh")
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


TASKS = (
    Task(
        pollen_forecast,
        arguments={"place": city(), "plant": one_of("birch", "grass", "hazel", "ragweed"), "day": date()},
        queries=(
            "How bad will the {plant} pollen be in {place} on {day}?",
            "I'm allergic to {plant} and going to {place} on {day}. What should I expect?",
            "pollen / {plant} / {place} / {day}",
            "Should my son take his hay fever pills on {day}? We live in {place}; it's the {plant} that bothers him.",
        ),
        answers=("The pollen load is {result}.", "Expected pollen: {result}."),
        names=("pollen_load", "allergy_forecast", "pollen_level_on"),
        parameters={"place": ("town", "region"), "plant": ("allergen", "pollen_type"), "day": ("date",)},
    ),
    Task(
        fine_dust_reading,
        arguments={
            "station": one_of("Ring Road East", "Harbor Gate", "City Park", "Mill Bridge", "Airport South"),
            "size": one_of("PM10", "PM2.5"),
            "at": clock(),
        },
        queries=(
            "What {size} value did the station {station} measure?",
            "{station}, {size}, {at}",
            "It smelled of smoke at {at}. How high was {size} at the station {station} then?",
            "Please read {size} from {station} for me.",
        ),
        answers=("It measured {result} micrograms per cubic meter.", "The reading is {result}."),
        names=("particulate_level", "dust_measurement", "read_air_station"),
        parameters={"station": ("station_name", "sensor"), "size": ("particle_size",), "at": ("time",)},
        slips={"size": (("PM 10", "PM10"), ("coarse", "PM10"), ("PM 2.5", "PM2.5"))},
    ),
    Task(
        share_of_limit,
        arguments={"micrograms": decimal(3, 120), "limit": one_of(15, 20, 25, 40)},
        queries=(
            "How many percent of the usual dust limit are {micrograms} micrograms per cubic meter?",
            "Our sensor shows {micrograms}. If {limit} micrograms are allowed, what percentage of that is it?",
            "dust {micrograms}, limit {limit}, percent?",
            "The air holds {micrograms} micrograms of dust. Put that as a share of the default limit for me, please.",
        ),
        answers=("That is {result} percent of the limit.", "It reaches {result}% of the limit."),
        names=("percent_of_dust_limit", "limit_usage", "compare_to_limit"),
        parameters={"micrograms": ("reading", "dust"), "limit": ("threshold", "allowed")},
    ),
    Task(
        tide_time,
        arguments={"harbor": one_of(*HARBORS), "tide_day": date(), "tide": one_of("high", "low")},
        queries=(
            "When is {tide} tide in {harbor} on {tide_day}?",
            Query("We want to walk on the mud at {harbor} on {tide_day}. When is the water lowest?", {"tide": "low"}),
            "{harbor} {tide_day} {tide} water",
            "I sail from {harbor} on {tide_day}. Time of the first {tide} tide, please?",
        ),
        answers=("It is at {time}, {meters} m.", "At {time}, with {meters} meters."),
        names=("tide_table", "water_level_time", "first_tide"),
        parameters={"harbor": ("port",), "tide_day": ("date", "day"), "tide": ("tide_type",)},
    ),
    Task(
        keel_clearance,
        arguments={"tide_meters": decimal(0.2, 6), "chart_depth": decimal(1, 9), "draft": decimal(0.6, 3, 2)},
        queries=(
            "Tide {tide_meters} m, chart depth {chart_depth} m, my boat draws {draft} m. Water under the keel?",
            "keel clearance: draft {draft}, depth {chart_depth}, tide {tide_meters}",
            "Can I cross the bar? The chart says {chart_depth} m, the tide adds {tide_meters} m and I draw {draft} m.",
            "With a draft of {draft} meters, what's left below us at {chart_depth} meters plus {tide_meters} of tide?",
        ),
        answers=("There are {result} meters under the keel.", "The clearance is {result} m."),
        names=("under_keel_water", "depth_below_keel", "boat_clearance"),
        parameters={"tide_meters": ("tide_height",), "chart_depth": ("depth",), "draft": ("boat_draft",)},
    ),
    Task(
        avalanche_level,
        arguments={
            "mountain_area": one_of("Silvretta", "Dolomites", "Tatra", "Cairngorms", "Wasatch", "Selkirks"),
            "elevation": whole(900, 3400),
            "slope": one_of("north", "east", "south", "west"),
        },
        queries=(
            "How high is the avalanche danger in the {mountain_area} at {elevation} m on {slope} slopes?",
            "We plan a ski tour in the {mountain_area}, {slope} side, up to {elevation} meters. Danger level?",
            "avalanche: {mountain_area}, {elevation} m, {slope}-facing",
            "Is a {slope} slope at {elevation} meters safe in the {mountain_area}? Give me the level.",
        ),
        answers=("The danger level is {result} of 5.", "Level {result}."),
        names=("snow_slide_danger", "avalanche_rating", "slope_danger"),
        parameters={"mountain_area": ("region", "massif"), "elevation": ("altitude",), "slope": ("aspect", "facing")},
    ),
    Task(
        species_sightings,
        arguments={"species": one_of(*SPECIES), "park": one_of(*PARKS), "months": several(one_of(*MONTHS), 1, 3)},
        queries=(
            "How often was a {species} seen in {park} in {months}?",
            "We hope to see a {species} at {park}. Number of sightings in {months}?",
            "{park}: {species}, {months}, count",
            "For my school report I need the {species} sightings of {months} in the park {park}.",
        ),
        answers=("There were {result} sightings.", "It was seen {result} times."),
        names=("count_sightings", "wildlife_records", "animal_observations"),
        parameters={"species": ("animal",), "park": ("reserve", "area"), "months": ("month_names", "in_months")},
    ),
    Task(
        identify_track,
        arguments={"print_cm": decimal(3, 11), "toes": one_of((2, "two"), (4, "four"), (5, "five"), 4, 5)},
        queries=(
            "I found a footprint, {print_cm} cm long with {toes} toes. Which animal was it?",
            Query(
                "Track in the snow: {print_cm} cm, {toes} toes, clear claw marks. What is it?", {"claws_visible": True}
            ),
            "Whose print has {toes} toes and is {print_cm} centimeters long?",
            Query("{toes} toes, {print_cm} cm, no claws to be seen. Animal?", {"claws_visible": False}),
        ),
        answers=("It may be a {result}.", "That looks like a {result}."),
        names=("animal_from_print", "whose_footprint", "track_lookup"),
        parameters={"print_cm": ("length_cm", "size_cm"), "toes": ("toe_count",), "claws_visible": ("claws",)},
    ),
    Task(
        watering_plan,
        arguments={"houseplant": one_of(*PLANTS), "pot_cm": whole(9, 40)},
        queries=(
            "How should I water a {houseplant} in a {pot_cm} cm pot?",
            Query("My {houseplant} stands in full sun, pot diameter {pot_cm} cm. How much water?", {"sunny": True}),
            "watering {houseplant}, pot {pot_cm} cm",
            "I kill every plant I own. Please tell me how to water my new {houseplant}; the pot measures {pot_cm} cm.",
        ),
        answers=("Give it {milliliters} ml every {every_days} days.", "{milliliters} ml, every {every_days} days."),
        names=("plant_water_schedule", "how_to_water", "houseplant_care"),
        parameters={"houseplant": ("plant", "plant_name"), "pot_cm": ("pot_diameter",), "sunny": ("full_sun",)},
    ),
    Task(
        name_plant,
        arguments={
            "leaf_shape": one_of("round", "needle", ("heart", "heart-shaped"), "lobed"),
            "flower_color": one_of("white", "pink", "yellow", "purple", "orange"),
            "height_cm": whole(50, 180),
        },
        queries=(
            "Which plant has {leaf_shape} leaves and {flower_color} flowers?",
            "Identify: {leaf_shape} leaves, {flower_color} flowers, {height_cm} cm tall",
            "My aunt gave me a plant with {flower_color} flowers and {leaf_shape} leaves. What is it?",
            "It's {height_cm} cm high, blooms {flower_color} and its leaves are {leaf_shape}. The name, please?",
        ),
        answers=("It could be a {result}.", "My guess is: {result}."),
        names=("guess_plant", "plant_from_looks", "identify_houseplant"),
        parameters={"leaf_shape": ("leaves",), "flower_color": ("bloom_color",), "height_cm": ("height",)},
    ),
    Task(
        trunk_age,
        arguments={"girth_cm": whole(40, 520), "tree": one_of("oak", "beech", "linden", "spruce")},
        queries=(
            "How old is a {tree} with a girth of {girth_cm} cm?",
            "We put a tape around the old {tree}: {girth_cm} centimeters. Its age?",
            "{tree}, {girth_cm} cm around, age?",
            "Please estimate the years of our {tree}; the trunk measures {girth_cm} cm around.",
        ),
        answers=("It is about {result} years old.", "Roughly {result} years."),
        names=("estimate_tree_years", "age_from_girth", "tree_age_by_trunk"),
        parameters={"girth_cm": ("circumference_cm", "trunk_girth"), "tree": ("tree_kind", "species")},
    ),
    Task(
        shower_peak,
        arguments={
            "meteor_shower": one_of("Vellids", "Mu Corvids", "Ostrids", "Taurellids"),
            "year": whole(2021, 2035),
        },
        queries=(
            "When do the {meteor_shower} peak in {year}?",
            "Which night of {year} should I keep free for the {meteor_shower}?",
            "{meteor_shower} {year} peak",
            "I promised my kids shooting stars. Please find the best night for the {meteor_shower} in {year}.",
        ),
        answers=("The peak is on {result}.", "They are strongest on {result}."),
        names=("meteor_peak_night", "best_meteor_night", "shower_maximum"),
        parameters={"meteor_shower": ("shower",), "year": ("in_year",)},
    ),
    Task(
        night_sky_clarity,
        arguments={"site": one_of(*PARKS, *HARBORS), "night": date(), "hour": one_of(20, 21, 22)},
        queries=(
            "Will the sky over {site} be clear on {night}?",
            "I want to put up my telescope at {site} on {night}, hour {hour}. Clouds? Moon?",
            "stargazing {site}, {night}",
            "Clouds and moonlight for {site} on {night} at {hour}:00, please.",
        ),
        answers=("Clouds {cloud_percent}%, moon {moon_percent}%.", "The sky is {cloud_percent} percent cloudy."),
        names=("stargazing_conditions", "night_clouds", "sky_forecast"),
        parameters={"site": ("place", "spot"), "night": ("date",), "hour": ("at_hour",)},
    ),
)

CHAINS = (
    Chain(
        shower_peak,
        night_sky_clarity,
        feeds="night",
        queries=(
            "On the peak night of the {meteor_shower} in {year}, will the sky over {site} be clear?",
            "{meteor_shower} {year}: find the best night and the clouds at {site}, hour {hour}.",
            "I'd watch the {meteor_shower} from {site} in {year}. What will the sky be like at their peak?",
        ),
        between=("They peak on {given}. Now the sky.", "The night is {given}."),
        answers=(
            "On {given} clouds cover {cloud_percent}%.",
            "{given}: clouds {cloud_percent}%, moon {moon_percent}%.",
        ),
    ),
    Chain(
        identify_track,
        species_sightings,
        feeds="species",
        queries=(
            "A {print_cm} cm print with {toes} toes: which animal, and how often was it seen in {park} in {months}?",
            Query("{toes} toes, claw marks, {print_cm} cm. Sightings in {park}, {months}?", {"claws_visible": True}),
            "Identify a {print_cm} cm track with {toes} toes, then count sightings at {park} in {months}.",
        ),
        between=("It may be a {given}. Now the sightings.", "That is a {given}, I think."),
        answers=("The {given} was seen {result} times.", "Probably a {given}; {result} sightings."),
    ),
    Chain(
        tide_time,
        keel_clearance,
        feeds="tide_meters",
        takes="meters",
        queries=(
            "At {tide} tide in {harbor} on {tide_day}, what is under my keel? Chart {chart_depth} m, draft {draft} m.",
            "{harbor}, {tide_day}, {tide} water; chart depth {chart_depth}, draft {draft}: keel clearance?",
            "I draw {draft} m. How much room is there at {tide} tide in {harbor} on {tide_day} over {chart_depth} m?",
        ),
        between=("The tide is {given} m. Now the clearance.", "That tide reaches {given} meters."),
        answers=("You have {result} meters under the keel.", "The clearance is {result} m at a tide of {given} m."),
    ),
    Chain(
        name_plant,
        watering_plan,
        feeds="houseplant",
        queries=(
            "Which plant has {leaf_shape} leaves and {flower_color} flowers? How do I water it in a {pot_cm} cm pot?",
            "Name the plant ({leaf_shape} leaves, {flower_color} flowers) and give its watering for a {pot_cm} cm pot.",
            Query(
                "{flower_color} flowers, {leaf_shape} leaves, {pot_cm} cm pot, full sun: water it how?", {"sunny": True}
            ),
        ),
        between=("It could be a {given}. Now the water.", "My guess is {given}."),
        answers=(
            "Give the {given} {milliliters} ml every {every_days} days.",
            "{milliliters} ml, every {every_days} days.",
        ),
    ),
    Chain(
        fine_dust_reading,
        share_of_limit,
        feeds="micrograms",
        queries=(
            "Read {size} at the station {station} and tell me what percentage of a limit of {limit} that is.",
            "{station}, {size}, {at}: percent of {limit} micrograms?",
            "Is the {size} at {station} over the usual limit? Give it in percent.",
        ),
        between=("The reading is {given}.", "It measured {given} micrograms. Now the share."),
        answers=("{given} micrograms are {result}% of the limit.", "That is {result} percent of the limit."),
    ),
)
