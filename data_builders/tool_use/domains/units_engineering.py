"""Conversions, building materials, electricity and energy."""

from __future__ import annotations

import math
from typing import Literal

from data_builders.tool_use.dialogs.samplers import decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task


def convert_pressure(reading: float, from_unit: str, to_unit: str) -> float:
    """Converts a pressure.

    Args:
        reading: Pressure as it was read.
        from_unit: Unit of the reading.
        to_unit: Unit that is wanted.
    """
    for unit in (from_unit, to_unit):
        if unit not in _PASCALS:
            raise ValueError(f"unit {unit!r} is not known; use one of {', '.join(_PASCALS)}")
    return round(reading * _PASCALS[from_unit] / _PASCALS[to_unit], 4)


def fuel_use_metric(miles_per_gallon: float, imperial: bool = False) -> float:
    """Liters per 100 km of a car whose mileage is given in miles per gallon.

    Args:
        miles_per_gallon: Mileage; above 0.
        imperial: Whether the gallon is the British one. Default is the US gallon.
    """
    if miles_per_gallon <= 0:
        raise ValueError("miles_per_gallon must be above 0")
    return round((282.481 if imperial else 235.215) / miles_per_gallon, 2)


def cups_to_grams(cups: float, ingredient: Literal["flour", "sugar", "butter", "rice", "honey"]) -> float:
    """Weight of an ingredient that a recipe gives in cups.

    Args:
        cups: Number of level US cups.
        ingredient: What is in the cup.
    """
    return round(cups * {"flour": 120, "sugar": 200, "butter": 227, "rice": 185, "honey": 340}[ingredient], 1)


def slab_volume(slab_length: float, slab_width: float, thickness_cm: float) -> float:
    """Concrete in a rectangular slab, in cubic meters.

    Args:
        slab_length: Length in meters.
        slab_width: Width in meters.
        thickness_cm: Thickness in centimeters.
    """
    return round(slab_length * slab_width * thickness_cm / 100, 3)


def material_weight(material: str, cubic_meters: float) -> float:
    """Weight in kilograms of a load of building material.

    Args:
        material: What the load consists of.
        cubic_meters: Volume of the load.
    """
    if material not in _DENSITIES:
        raise ValueError(f"material {material!r} is not known; use one of {', '.join(_DENSITIES)}")
    return round(cubic_meters * _DENSITIES[material], 1)


def paint_tins(wall_area: float, coats: int = 2, tin_liters: float = 5) -> int:
    """How many tins of paint a wall takes, at 10 square meters per liter.

    Args:
        wall_area: Area in square meters.
        coats: How many coats are painted. Default is 2.
        tin_liters: Content of one tin in liters. Default is 5.
    """
    if tin_liters <= 0:
        raise ValueError("tin_liters must be above 0")
    return math.ceil(round(wall_area * coats / 10 / tin_liters, 6))


def four_walls_area(room_length: float, room_width: float, ceiling_height: float, openings: float = 0) -> float:
    """Area of the four walls of a room in square meters.

    Args:
        room_length: Meters.
        room_width: Meters.
        ceiling_height: Height of the room in meters.
        openings: Area of doors and windows, taken off (optional).
    """
    return round(2 * (room_length + room_width) * ceiling_height - openings, 2)


def appliance_energy(appliance: str, watts: int, hours_per_day: float, days: int = 30) -> dict:
    """Energy that an electric appliance uses.

    Args:
        appliance: Name of the appliance, such as "freezer".
        watts: Power in watts.
        hours_per_day: Hours it runs each day.
        days: Number of days. Default is 30.
    """
    return {"appliance": appliance, "kilowatt_hours": round(watts * hours_per_day * days / 1000, 2)}


def solar_panels_for(energy_kwh: float, panel_watts: int, sun_hours: float, period_days: int = 30) -> int:
    """Solar panels that deliver an amount of energy.

    Args:
        energy_kwh: Energy wanted in the whole period, in kWh.
        panel_watts: Rated power of one panel.
        sun_hours: Hours of full sun a day.
        period_days: Length of the period in days. Default is 30.
    """
    if min(panel_watts, sun_hours, period_days) <= 0:
        raise ValueError("panel_watts, sun_hours and period_days must be above 0")
    return math.ceil(round(energy_kwh * 1000 / (panel_watts * sun_hours * period_days), 6))


def combined_resistance(resistors: list[float], wiring: Literal["series", "parallel"]) -> float:
    """Total resistance of several resistors in ohms.

    Args:
        resistors: Resistances in ohms, all above 0.
        wiring: How they are connected.
    """
    if not resistors or min(resistors) <= 0:
        raise ValueError("resistors must be above 0 ohms, and at least one")
    return round(sum(resistors) if wiring == "series" else 1 / sum(1 / ohms for ohms in resistors), 4)


def current_drawn(voltage: float, total_ohms: float) -> float:
    """Current through a resistance in amperes.

    Args:
        voltage: Volts across it.
        total_ohms: Resistance in ohms.
    """
    if total_ohms <= 0:
        raise ValueError("total_ohms must be above 0")
    return round(voltage / total_ohms, 4)


def feet_and_inches(centimeters: float) -> str:
    """Says a length in feet and inches, to the nearest inch.

    Args:
        centimeters: Length in centimeters.
    """
    feet, inches = divmod(round(centimeters / 2.54), 12)
    return f"{feet} ft {inches} in"


def stair_layout(rise_cm: float, highest_riser_cm: float = 18.5) -> dict:
    """Number and height of the steps of a staircase.

    Args:
        rise_cm: Height from floor to floor in cm.
        highest_riser_cm: Steps may not be higher than this. Default is 18.5.
    """
    if highest_riser_cm <= 0:
        raise ValueError("highest_riser_cm must be above 0")
    steps = math.ceil(rise_cm / highest_riser_cm)
    return {"steps": steps, "riser_cm": round(rise_cm / steps, 2)}


_PASCALS = {"psi": 6894.757, "bar": 100000.0, "kPa": 1000.0, "atm": 101325.0, "mmHg": 133.322}
_DENSITIES = {"concrete": 2400, "gravel": 1680, "sand": 1600, "steel": 7850, "oak": 720, "brick": 1900}
_APPLIANCES = ("freezer", "dishwasher", "space heater", "pond pump", "kiln", "dehumidifier", "3D printer", "sauna")

TASKS = (
    Task(
        convert_pressure,
        arguments={"reading": decimal(1, 200), "from_unit": one_of(*_PASCALS), "to_unit": one_of(*_PASCALS)},
        queries=(
            "How much is {reading} {from_unit} in {to_unit}?",
            "Convert {reading} {from_unit} to {to_unit}.",
            "My gauge shows {reading} {from_unit}, but the manual speaks of {to_unit}. What is it in that unit?",
            "{to_unit} for {reading} {from_unit}",
        ),
        answers=("That is {result}.", "It comes to {result}."),
        names=("pressure_in", "pressure_converter", "change_pressure_unit"),
        parameters={"reading": ("value", "pressure"), "from_unit": ("source",), "to_unit": ("target",)},
        different=("from_unit", "to_unit"),
        slips={"to_unit": (("bars", "bar"), ("kilopascals", "kPa"), ("atmospheres", "atm"), ("PSI", "psi"))},
    ),
    Task(
        fuel_use_metric,
        arguments={"miles_per_gallon": decimal(12, 70)},
        queries=(
            "What is {miles_per_gallon} mpg in liters per 100 km?",
            Query(
                "Our British car does {miles_per_gallon} miles to the imperial gallon. Liters per 100 km?",
                {"imperial": True},
            ),
            Query("{miles_per_gallon} mpg (UK) -> l/100 km", {"imperial": True}),
            "The ad says {miles_per_gallon} miles per gallon; how much does the car use per 100 kilometers?",
        ),
        answers=("It uses {result} liters per 100 km.", "{result} l/100 km."),
        names=("mpg_to_metric", "liters_per_100_km", "fuel_per_100_km"),
        parameters={"miles_per_gallon": ("mpg", "mileage"), "imperial": ("uk_gallon", "british")},
    ),
    Task(
        cups_to_grams,
        arguments={
            "cups": one_of(0.5, 0.75, 1.5, 2, 2.5, 3, 4),
            "ingredient": one_of("flour", "sugar", "butter", "rice", "honey"),
        },
        queries=(
            "How many grams are {cups} cups of {ingredient}?",
            "{ingredient}, {cups} cups, in grams",
            "Grandma's recipe wants {cups} cups of {ingredient}, and I only have a scale. What do I weigh?",
            "Please give me the weight of {cups} US cups of {ingredient}.",
        ),
        answers=("Weigh {result} grams.", "That is {result} g."),
        names=("weigh_cups", "cup_weight", "recipe_grams"),
        parameters={"cups": ("amount", "cup_count"), "ingredient": ("food", "item")},
    ),
    Task(
        slab_volume,
        arguments={"slab_length": decimal(2, 20), "slab_width": decimal(2, 12), "thickness_cm": whole(8, 30)},
        queries=(
            "How much concrete goes into a slab of {slab_length} by {slab_width} m, {thickness_cm} cm thick?",
            "slab {slab_length} m x {slab_width} m x {thickness_cm} cm: cubic meters?",
            "I pour a floor {thickness_cm} cm thick for a shed {slab_length} m long and {slab_width} m wide. What "
            "volume?",
            "Volume of concrete, please. Length {slab_length} m, width {slab_width} m, thickness {thickness_cm} cm.",
        ),
        answers=("You need {result} cubic meters.", "The slab takes {result} cubic meters."),
        names=("concrete_for_slab", "slab_cubic_meters", "volume_of_slab"),
        parameters={"slab_length": ("length",), "slab_width": ("width",), "thickness_cm": ("thickness", "depth_cm")},
    ),
    Task(
        material_weight,
        arguments={"material": one_of(*_DENSITIES), "cubic_meters": decimal(0.5, 9, 2)},
        queries=(
            "What do {cubic_meters} cubic meters of {material} weigh?",
            "weight: {material}, {cubic_meters} m3",
            "The truck brings {cubic_meters} cubic meters of {material}. How many kilograms is that?",
            "Work out how heavy a load of {material} is if it takes up {cubic_meters} cubic meters.",
        ),
        answers=("It weighs {result} kg.", "The load is {result} kilograms."),
        names=("load_weight", "mass_of_material", "weigh_load"),
        parameters={"material": ("substance", "kind"), "cubic_meters": ("volume", "volume_m3")},
        slips={"material": (("oak wood", "oak"), ("bricks", "brick"), ("pebbles", "gravel"), ("cement", "concrete"))},
    ),
    Task(
        paint_tins,
        arguments={"wall_area": decimal(12, 200), "coats": one_of(3, 4), "tin_liters": one_of(1, 2.5, 3, 10)},
        queries=(
            "How many tins of paint for {wall_area} square meters of wall?",
            "Paint for {wall_area} m2, {coats} coats, tins of {tin_liters} liters. How many do I buy?",
            "The fence has {wall_area} square meters and the shop sells {tin_liters}-liter tins. How many are needed?",
            "I want {coats} coats on {wall_area} square meters; tell me the number of tins.",
        ),
        answers=("Buy {result} tins.", "You need {result} tins of paint."),
        names=("paint_needed", "tins_of_paint", "paint_tin_count"),
        parameters={"wall_area": ("area", "square_meters"), "coats": ("layers",), "tin_liters": ("can_size",)},
    ),
    Task(
        four_walls_area,
        arguments={
            "room_length": decimal(2, 9),
            "room_width": decimal(2, 7),
            "ceiling_height": decimal(2.2, 3.5),
            "openings": decimal(1, 5),
        },
        queries=(
            "How large are the walls of a room {room_length} by {room_width} m, {ceiling_height} m high?",
            "Walls: {room_length} x {room_width} m, height {ceiling_height}, minus {openings} m2 of windows",
            "My bedroom is {room_length} m long, {room_width} m wide and {ceiling_height} m high, with {openings} "
            "square "
            "meters of doors and windows. What wall area is left?",
            "I hang wallpaper in a {room_length} m by {room_width} m room of {ceiling_height} m height. Area?",
        ),
        answers=("The walls have {result} square meters.", "It is {result} square meters."),
        names=("walls_to_cover", "wallpaper_area", "area_of_room_walls"),
        parameters={"room_length": ("length",), "room_width": ("width",), "ceiling_height": ("height",)},
    ),
    Task(
        appliance_energy,
        arguments={
            "appliance": one_of(*_APPLIANCES),
            "watts": whole(60, 3500),
            "hours_per_day": decimal(0.5, 20),
            "days": one_of(7, 14, 31, 90, 365),
        },
        queries=(
            "How much electricity does a {appliance} of {watts} watts use, {hours_per_day} hours a day?",
            "{appliance}: {watts} W, {hours_per_day} h daily, {days} days. kWh?",
            "We let the {appliance} ({watts} watts) run {hours_per_day} hours each day for {days} days. What did it "
            "use?",
            "Tell me the energy use of my {watts} W {appliance}, please. It is on {hours_per_day} hours per day.",
        ),
        answers=("The {appliance} uses {kilowatt_hours} kWh.", "That is {kilowatt_hours} kilowatt hours."),
        names=("power_usage", "electricity_used", "appliance_kwh"),
        parameters={"appliance": ("device",), "watts": ("power",), "hours_per_day": ("daily_hours",)},
    ),
    Task(
        solar_panels_for,
        arguments={
            "energy_kwh": decimal(20, 900),
            "panel_watts": one_of(250, 320, 375, 400, 430),
            "sun_hours": decimal(2, 7),
            "period_days": one_of(7, 31, 90, 365),
        },
        queries=(
            "How many {panel_watts} watt panels give me {energy_kwh} kWh a month with {sun_hours} hours of sun a day?",
            "solar: {energy_kwh} kWh in {period_days} days, {panel_watts} W panels, {sun_hours} sun hours",
            "We need {energy_kwh} kWh in {period_days} days. The panels have {panel_watts} watts and the sun shines "
            "{sun_hours} hours daily. How many do we put up?",
            "Monthly use {energy_kwh} kWh, sun {sun_hours} h/day. Number of {panel_watts} W panels?",
        ),
        answers=("You need {result} panels.", "{result} panels will do."),
        names=("panel_count", "size_solar_array", "panels_required"),
        parameters={"energy_kwh": ("energy",), "panel_watts": ("panel_power",), "sun_hours": ("daily_sun",)},
    ),
    Task(
        combined_resistance,
        arguments={
            "resistors": several(one_of(10, 22, 33, 47, 68, 100, 150, 220, 330, 470, 680), 2, 4),
            "wiring": one_of("series", "parallel"),
        },
        queries=(
            "What is the resistance of {resistors} ohms in {wiring}?",
            "{wiring}: {resistors} ohm, total?",
            "On my board there are resistors of {resistors} ohms, connected in {wiring}. What do they add up to?",
            "Please work out the total of {resistors} ohms wired in {wiring}.",
        ),
        answers=("It is {result} ohms.", "The total is {result} ohms."),
        names=("network_resistance", "resistor_network", "ohms_of_network"),
        parameters={"resistors": ("ohms", "values"), "wiring": ("connection", "layout")},
    ),
    Task(
        current_drawn,
        arguments={"voltage": one_of(3.3, 5, 9, 12, 24, 48, 120, 230), "total_ohms": decimal(2, 900)},
        queries=(
            "What current flows through {total_ohms} ohms at {voltage} volts?",
            "{voltage} V across {total_ohms} ohm: amperes?",
            "My heater wire has {total_ohms} ohms and hangs on {voltage} volts. What does it draw?",
            "Work out the amperes, please: supply {voltage} V, load {total_ohms} ohms.",
        ),
        answers=("It draws {result} amperes.", "The current is {result} A."),
        names=("amperes_through", "load_current", "amps_drawn"),
        parameters={"voltage": ("volts",), "total_ohms": ("resistance", "ohms")},
    ),
    Task(
        feet_and_inches,
        arguments={"centimeters": decimal(40, 400)},
        queries=(
            "How tall is {centimeters} cm in feet and inches?",
            "{centimeters} cm in ft and in",
            "The plank is {centimeters} centimeters long. Say that to an American carpenter.",
            "Please put {centimeters} centimeters into feet and inches for me.",
        ),
        answers=("That is {result}.", "It measures {result}."),
        names=("cm_to_feet", "imperial_length", "say_in_feet"),
        parameters={"centimeters": ("cm", "length_cm")},
    ),
    Task(
        stair_layout,
        arguments={"rise_cm": whole(90, 340), "highest_riser_cm": decimal(15, 21)},
        queries=(
            "How many steps does a staircase need to climb {rise_cm} cm?",
            "stairs: rise {rise_cm} cm, riser at most {highest_riser_cm} cm",
            "I build steps up to a deck that is {rise_cm} cm high, and no step may be over {highest_riser_cm} cm.",
            "Plan the stairs for {rise_cm} cm from floor to floor.",
        ),
        answers=("Build {steps} steps of {riser_cm} cm.", "{steps} steps, each {riser_cm} cm high."),
        names=("plan_stairs", "step_count", "design_staircase"),
        parameters={"rise_cm": ("total_rise", "height_cm"), "highest_riser_cm": ("riser_limit",)},
    ),
)

CHAINS = (
    Chain(
        slab_volume,
        material_weight,
        feeds="cubic_meters",
        queries=(
            "How heavy is a layer of {material}, {slab_length} by {slab_width} m and {thickness_cm} cm thick?",
            "slab {slab_length} x {slab_width} m, {thickness_cm} cm, of {material}: weight?",
            "I spread {material} {thickness_cm} cm deep over {slab_length} m by {slab_width} m. How many kilograms is "
            "it?",
        ),
        between=("The volume is {given} cubic meters.", "That is {given} cubic meters. Now the weight."),
        answers=("It weighs {result} kg.", "{given} cubic meters weigh {result} kg."),
    ),
    Chain(
        four_walls_area,
        paint_tins,
        feeds="wall_area",
        queries=(
            "How many tins paint a room of {room_length} by {room_width} m, {ceiling_height} m high, with {coats} "
            "coats?",
            "Room {room_length} x {room_width} x {ceiling_height} m, openings {openings} m2: tins of {tin_liters} "
            "liters?",
            "We paint the walls of a {room_length} m by {room_width} m hall, height {ceiling_height} m. How many tins?",
        ),
        between=("The walls have {given} square meters.", "There are {given} square meters to paint."),
        answers=("You need {result} tins.", "{result} tins for {given} square meters."),
    ),
    Chain(
        appliance_energy,
        solar_panels_for,
        feeds="energy_kwh",
        takes="kilowatt_hours",
        queries=(
            "How many {panel_watts} W panels run a {appliance} of {watts} W for {hours_per_day} h a day, with "
            "{sun_hours} h of sun?",
            "{appliance}, {watts} watts, {hours_per_day} hours daily; {sun_hours} sun hours. Count the {panel_watts} "
            "W panels.",
            "My {appliance} ({watts} W) is on {hours_per_day} hours a day. I get {sun_hours} hours of sun. How many "
            "panels of {panel_watts} watts cover its month?",
        ),
        between=("It uses {given} kWh in a month.", "The month's use is {given} kWh."),
        answers=("{result} panels will do.", "For {given} kWh you need {result} panels."),
    ),
    Chain(
        combined_resistance,
        current_drawn,
        feeds="total_ohms",
        queries=(
            "What current do {resistors} ohms in {wiring} draw at {voltage} volts?",
            "{voltage} V on {resistors} ohm, {wiring}: amperes?",
            "I connect resistors of {resistors} ohms in {wiring} to {voltage} volts. How much current flows?",
        ),
        between=("Together they have {given} ohms.", "The resistance is {given} ohms."),
        answers=("{result} amperes flow.", "At {given} ohms the current is {result} A."),
    ),
    Chain(
        stair_layout,
        feet_and_inches,
        feeds="centimeters",
        takes="riser_cm",
        queries=(
            "A staircase climbs {rise_cm} cm. How high is each step in feet and inches?",
            "step height in ft/in: rise {rise_cm} cm, riser at most {highest_riser_cm} cm",
            "I plan stairs over {rise_cm} cm and need the height of one step in inches.",
        ),
        between=("Each step is {given} cm high.", "A step has {given} cm."),
        answers=("Each step is {result} high.", "{given} cm is {result}."),
    ),
)
