"""Mechanics, electricity, waves and heat. `noise_level_at` simulates a network of microphones: its results are
made up."""

from __future__ import annotations

import math
from typing import Literal

from data_builders.tool_use.made_up import made_up

GRAVITY = {"Earth": 9.81, "Moon": 1.62, "Mars": 3.71, "Venus": 8.87, "Titan": 1.35}
HEAT = {"water": 4.186, "olive oil": 1.97, "aluminum": 0.897, "iron": 0.449, "copper": 0.385, "sand": 0.83}
RESISTIVITY = {"copper": 0.0168, "aluminum": 0.0265, "silver": 0.0159, "tungsten": 0.0528}


def skid_length(speed_kmh: float, surface: Literal["dry asphalt", "wet asphalt", "gravel", "snow", "ice"]) -> float:
    """Meters that a vehicle slides with locked wheels until it stands.

    Args:
        speed_kmh: Speed at the start, in km/h.
        surface: What it slides on.
    """
    friction = {"dry asphalt": 0.8, "wet asphalt": 0.5, "gravel": 0.6, "snow": 0.25, "ice": 0.1}[surface]
    return round((speed_kmh / 3.6) ** 2 / (2 * friction * GRAVITY["Earth"]), 2)


def swing_period(cord_length: float, body: str = "Earth") -> float:
    """Seconds of one full swing of a pendulum.

    Args:
        cord_length: Length of the cord in meters.
        body: Where it swings: Earth, Moon, Mars, Venus or Titan. Default is Earth.
    """
    if body not in GRAVITY:
        raise ValueError(f"body {body!r} is not known; use one of {', '.join(GRAVITY)}")
    return round(2 * math.pi * math.sqrt(cord_length / GRAVITY[body]), 3)


def drop_from(drop_height: float, gravity: float = 9.81) -> dict:
    """How long something falls, and how fast it hits the ground (without air).

    Args:
        drop_height: Height in meters.
        gravity: Acceleration in m/s². Default is 9.81.
    """
    seconds = math.sqrt(2 * drop_height / gravity)
    return {"seconds": round(seconds, 3), "impact_speed": round(gravity * seconds, 3)}


def energy_of_motion(velocity: float, mass_kg: float) -> float:
    """Kinetic energy in joules.

    Args:
        velocity: Velocity in m/s.
        mass_kg: Mass of the moving body in kilograms.
    """
    return round(mass_kg * velocity**2 / 2, 2)


def join_resistors(resistors: list[float], wiring: Literal["series", "parallel"]) -> float:
    """Total resistance of several resistors, in ohms.

    Args:
        resistors: Resistance of each one, in ohms.
        wiring: How they are connected.
    """
    return round(sum(resistors) if wiring == "series" else 1 / sum(1 / ohms for ohms in resistors), 4)


def wire_resistance(length_m: float, cross_section: float, metal: str = "copper") -> float:
    """Resistance of a wire in ohms.

    Args:
        length_m: Length of the wire in meters.
        cross_section: Cross-section in square millimeters.
        metal: Metal of the wire, e.g. copper or aluminum.
    """
    if metal not in RESISTIVITY:
        raise ValueError(f"metal {metal!r} is not known; use one of {', '.join(RESISTIVITY)}")
    return round(RESISTIVITY[metal] * length_m / cross_section, 4)


def circuit_current(voltage: float, total_ohms: float) -> float:
    """Current in amperes through a circuit.

    Args:
        voltage: Voltage of the source, in volts.
        total_ohms: Resistance of the whole circuit.
    """
    if total_ohms <= 0:
        raise ValueError("total_ohms must be above 0")
    return round(voltage / total_ohms, 4)


def echo_distance(delay: float, medium: Literal["air", "water", "ice", "steel"] = "air") -> float:
    """Distance in meters to what throws back an echo.

    Args:
        delay: Seconds between the sound and its echo.
        medium: What the sound goes through. Default is "air".
    """
    return round(delay * {"air": 343, "water": 1480, "ice": 3800, "steel": 5960}[medium] / 2, 2)


def passing_pitch(source_hz: float, source_speed: float, approaching: bool = True) -> float:
    """Frequency that is heard from a moving source of sound.

    Args:
        source_hz: Frequency that the source sends out, in hertz.
        source_speed: Its speed in meters per second, below 343.
        approaching: Whether it comes nearer (true) or moves away.
    """
    return round(source_hz * 343 / (343 - source_speed if approaching else 343 + source_speed), 2)


def wave_length(frequency: float, wave: Literal["sound", "radio"] = "sound") -> float:
    """Length of a wave in meters.

    Args:
        frequency: Frequency in hertz.
        wave: "sound" in air, or "radio" for anything at the speed of light.
    """
    return round((343 if wave == "sound" else 299_792_458) / frequency, 4)


def heat_to_warm(kilograms: float, degrees: float, substance: str) -> float:
    """Heat in kilojoules that warms something up.

    Args:
        kilograms: Mass of the substance.
        degrees: By how many degrees Celsius it gets warmer.
        substance: One of water, olive oil, aluminum, iron, copper, sand.
    """
    if substance not in HEAT:
        raise ValueError(f"substance {substance!r} is not known; use one of {', '.join(HEAT)}")
    return round(kilograms * degrees * HEAT[substance], 3)


def heating_minutes(energy_kj: float, power_watts: float, lost_percent: float = 0) -> float:
    """Minutes that a heater runs to give off some energy.

    Args:
        energy_kj: Energy wanted, in kilojoules.
        power_watts: Power of the heater in watts.
        lost_percent: Percentage of the heat that escapes. Default is 0.
    """
    return round(energy_kj * 1000 / (power_watts * (1 - lost_percent / 100)) / 60, 2)


def noise_level_at(square: str, time_of_day: str) -> int:
    """Measured noise in decibels, at one meter from the source, on a public square.

    Args:
        square: Name of the square or street.
        time_of_day: Time as HH:MM.
    """
    return made_up(58, 96, "noise", square.lower(), time_of_day)


def fainter_at(decibels: float, meters: float) -> float:
    """Loudness of a source farther away.

    Args:
        decibels: Level at one meter.
        meters: Distance from the source, at least 1.
    """
    return round(max(decibels - 20 * math.log10(meters), 0), 1)
