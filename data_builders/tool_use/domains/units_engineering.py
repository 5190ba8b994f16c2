"""Conversions, building materials, electricity and energy."""

from __future__ import annotations

import math
from typing import Literal


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
