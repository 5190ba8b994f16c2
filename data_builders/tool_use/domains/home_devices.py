"""Devices of a home, a phone and a car: stand-ins for services, the states that they tell are made up."""

from __future__ import annotations

import math
from datetime import date as Date
from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice

ROOMS = (
    "kitchen", "bathroom", "nursery", "living room", "hallway", "study", "guest room", "attic", "cellar", "garage",
    "sunroom", "laundry room")  # fmt: skip


def hold_room_temperature(heated_room: str, degrees: float, until: str = "") -> dict:
    """Have the heating keep a room at a temperature.

    Args:
        heated_room: The room to be heated.
        degrees: Target temperature in degrees Celsius.
        until: Time (HH:MM) at which the heating goes back to its plan; empty to keep it.
    """
    if not 5 <= degrees <= 32:
        raise ValueError(f"degrees {degrees} is out of reach; take 5 to 32")
    return {
        "valve_percent": made_up(10, 95, heated_room, float(degrees)),
        "minutes_needed": made_up(5, 70, heated_room),
    }


def read_room_sensor(sensor_room: str, quantity: Literal["temperature", "humidity", "co2"] = "temperature") -> float:
    """What a room's sensor shows now.

    Args:
        sensor_room: Room in which the sensor stands.
        quantity: What to read: temperature (Celsius), humidity (percent) or co2 (ppm).
    """
    low, high = {"temperature": (170, 245), "humidity": (300, 700), "co2": (4200, 15000)}[quantity]
    return made_up(low, high, sensor_room, quantity) / 10


def dim_lights(area: str, brightness: int = 100, tone: Literal["warm", "neutral", "cold"] = "neutral") -> dict:
    """Switch on the lights of a room with a brightness and a tone.

    Args:
        area: Room or corner of the home, such as "hallway".
        brightness: In percent, 1 to 100. Default is 100.
        tone: Tone of the white light.
    """
    return {"lamps": made_up(1, 8, area), "watts": round(made_up(1, 8, area) * brightness * 0.08, 1), "tone": tone}


def start_washing(program: str, spin_speed: int, extra_rinse: bool = False) -> dict:
    """Start the washing machine.

    Args:
        program: One of cotton, delicates, wool, sport.
        spin_speed: Revolutions per minute of the last spin.
        extra_rinse: Whether to rinse once more, for sensitive skin.
    """
    if program not in ("cotton", "delicates", "wool", "sport"):
        raise ValueError(f"program {program!r} is not known; the machine has cotton, delicates, wool, sport")
    minutes = {"cotton": 130, "delicates": 55, "wool": 45, "sport": 70}[program] + 18 * extra_rinse
    return {"minutes": minutes + spin_speed // 200, "liters": made_up(35, 70, program) + 14 * extra_rinse}


def wake_me(wake_time: str, weekdays: list[str], sound: str = "bell") -> str:
    """Set an alarm that rings on some days of the week; gives the alarm's number.

    Args:
        wake_time: When it rings, as HH:MM (24 hours).
        weekdays: Full English names of the days, e.g. ["Monday", "Friday"].
        sound: Name of the sound. Default is "bell".
    """
    return f"A-{made_up(100, 999, wake_time, weekdays, sound)}"


def clock_before(leave_at: str, minutes_before: int) -> str:
    """The time of day that lies some minutes before another.

    Args:
        leave_at: A time as HH:MM on the 24 hour clock.
        minutes_before: How many minutes to go back.
    """
    minutes = (int(leave_at[:2]) * 60 + int(leave_at[3:]) - minutes_before) % 1440
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def locate_gadget(owner: str, gadget: Literal["phone", "watch", "keys", "tablet"], ring: bool = False) -> dict:
    """Find out in which room somebody's gadget lies.

    Args:
        owner: First name of the one to whom it belongs.
        gadget: What is searched.
        ring: Let it ring as well.
    """
    return {"found_in": made_up_choice(ROOMS, owner, gadget), "battery": made_up(3, 99, owner, gadget)}


def car_status(license_plate: str) -> dict:
    """State of an electric car: its battery and how far it still gets.

    Args:
        license_plate: The car's plate, such as "KL 482 X".
    """
    battery = made_up(15, 98, license_plate)
    return {"battery_percent": battery, "range_km": round(battery * made_up(28, 46, license_plate, "range") / 10)}


def charging_stops(trip_km: int, remaining_km: int, full_range_km: int = 350) -> int:
    """How often an electric car must be charged on a trip.

    Args:
        trip_km: Length of the trip in kilometers.
        remaining_km: Kilometers that the car can drive before it must be charged for the first time.
        full_range_km: Kilometers after each charge.
    """
    return max(0, math.ceil((trip_km - remaining_km) / full_range_km))


def play_music(playlist: str, speaker: str, volume: int = 30, shuffle: bool = False) -> dict:
    """Play one of the user's playlists on a speaker.

    Args:
        playlist: Name of the playlist.
        speaker: The speaker, named after the room where it stands.
        volume: From 0 to 100.
        shuffle: True to play the songs in random order.
    """
    return {"songs": made_up(8, 120, playlist), "first_song": f"Track {made_up(1, 60, playlist, shuffle)}"}


def vacuum_rooms(rooms: list[str], begin: str, deep_clean: bool = False) -> int:
    """Send the robot vacuum through some rooms; gives the minutes that it will need.

    Args:
        rooms: The rooms, in the order in which they are cleaned.
        begin: Starting time HH:MM.
        deep_clean: Go over every spot twice.
    """
    return sum(made_up(6, 25, room) for room in rooms) * (2 if deep_clean else 1)


def power_used(appliance: str, from_day: str, to_day: str) -> float:
    """Kilowatt-hours that an appliance used between two days, both included.

    Args:
        appliance: The appliance as it is named in the meter's list, e.g. "freezer".
        from_day: First day, YYYY-MM-DD.
        to_day: Last day, YYYY-MM-DD.
    """
    days = (Date.fromisoformat(to_day) - Date.fromisoformat(from_day)).days + 1
    if days < 1:
        raise ValueError("to_day lies before from_day; swap them")
    return round(days * made_up(20, 400, appliance) / 100, 2)


def carbon_of_power(kilowatt_hours: float, grams_per_kwh: int = 400) -> float:
    """Kilograms of carbon dioxide that stand behind an amount of electricity.

    Args:
        kilowatt_hours: Electricity used.
        grams_per_kwh: Emissions of the grid in grams for each kilowatt-hour. Default is 400.
    """
    return round(kilowatt_hours * grams_per_kwh / 1000, 3)
