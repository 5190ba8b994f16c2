"""Mechanics, electricity, waves and heat. `noise_level_at` stands in for a network of microphones: its results are
made up."""

from __future__ import annotations

import math
from typing import Literal

from data_builders.tool_use.dialogs.samplers import clock, decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up

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


SQUARES = one_of("Market Square", "Plaza del Sol", "Station Road", "Alexander Street", "Fountain Place", "Harbor Front",
                 "Piazza Grande", "Old Mint Square", "Rosenplatz", "Tower Bridge Road", "Cathedral Yard")  # fmt: skip

TASKS = (
    Task(
        skid_length,
        arguments={
            "speed_kmh": whole(20, 130),
            "surface": one_of("dry asphalt", "wet asphalt", "gravel", "snow", "ice"),
        },
        queries=(
            "A car locks its wheels at {speed_kmh} km/h on {surface}. How far does it slide?",
            "Skid at {speed_kmh} km/h, surface {surface}: length?",
            "I hit the brakes on {surface} at {speed_kmh} km/h and the wheels locked. How many meters to a stop?",
            "Could you tell me how long the skid marks on {surface} are for {speed_kmh} km/h?",
        ),
        answers=("It slides {result} meters.", "The skid is {result} m long."),
        names=("locked_wheel_distance", "sliding_distance", "skid_mark_length"),
        parameters={"speed_kmh": ("initial_speed", "speed"), "surface": ("road", "ground")},
    ),
    Task(
        swing_period,
        arguments={"cord_length": decimal(0.2, 15, 2), "body": one_of(("Moon", "the Moon"), "Mars", "Venus", "Titan")},
        queries=(
            "How long does a pendulum of {cord_length} m take for one swing?",
            "A {cord_length} m pendulum is set up on {body}. What is its period?",
            "cord of {cord_length} m, on {body}, period in seconds?",
            "There's a pendulum with a cord of {cord_length} meters in our museum; please work out its full swing.",
        ),
        answers=("One swing takes {result} seconds.", "The period is {result} s."),
        names=("pendulum_swing_time", "period_of_swing", "oscillation_time"),
        parameters={"cord_length": ("length", "rope_m"), "body": ("planet", "place")},
        slips={"body": (("Luna", "Moon"), ("the red planet", "Mars"), ("Saturn's largest moon", "Titan"))},
    ),
    Task(
        drop_from,
        arguments={"drop_height": decimal(1, 150), "gravity": one_of(1.62, 3.71, 8.87, 9.8, 9.83)},
        queries=(
            "A flower pot falls from {drop_height} m. When and how fast does it hit the ground?",
            "free fall, height {drop_height} m, gravity {gravity} m/s²",
            "Where the acceleration is {gravity} m/s², I let go of a hammer {drop_height} meters up. Time and speed?",
            "How fast is something that was dropped from a height of {drop_height} meters when it lands?",
        ),
        answers=("It falls {seconds} s and lands at {impact_speed} m/s.", "After {seconds} s, at {impact_speed} m/s."),
        names=("free_fall", "fall_time_and_speed", "simulate_drop"),
        parameters={"drop_height": ("height", "from_height"), "gravity": ("g", "acceleration")},
    ),
    Task(
        energy_of_motion,
        arguments={"velocity": decimal(1, 60), "mass_kg": decimal(0.2, 2000)},
        queries=(
            "What is the kinetic energy of {mass_kg} kg at {velocity} m/s?",
            "mass {mass_kg} kg, velocity {velocity} m/s. Energy in joules?",
            "A sled of {mass_kg} kilograms shoots down at {velocity} meters per second. How much energy does it carry?",
            "Energy of motion, please: {velocity} m/s and {mass_kg} kg.",
        ),
        answers=("It has {result} joules.", "The energy is {result} J."),
        names=("motion_energy", "get_kinetic_joules", "moving_body_energy"),
        parameters={"velocity": ("speed", "v"), "mass_kg": ("mass", "kilograms")},
    ),
    Task(
        join_resistors,
        arguments={
            "resistors": several(whole(5, 900), 2, 5),
            "wiring": one_of(("series", "in series"), ("parallel", "in parallel")),
        },
        queries=(
            "Resistors of {resistors} ohms are connected {wiring}. What is the total?",
            "{resistors} ohm, {wiring}. total resistance?",
            "I soldered {resistors} ohm resistors {wiring} and my meter is broken. What should it show?",
            Query("All in one row, so in series: {resistors} ohms. Sum them up for me.", {"wiring": "series"}),
        ),
        answers=("Together they have {result} ohms.", "The total resistance is {result} ohms."),
        names=("combine_resistors", "total_resistance", "equivalent_ohms"),
        parameters={"resistors": ("ohms", "resistances"), "wiring": ("connection", "layout")},
    ),
    Task(
        wire_resistance,
        arguments={
            "length_m": whole(5, 400),
            "cross_section": one_of(0.75, 1.5, 2.5, 4, 6, 10),
            "metal": one_of(*RESISTIVITY),
        },
        queries=(
            "What resistance does {length_m} m of {metal} wire with {cross_section} mm² have?",
            "A copper cable has {cross_section} mm² and is {length_m} m long. Its resistance?",
            "wire: {metal}, {length_m} m, {cross_section} square millimeters -> ohms",
            "I unrolled {length_m} meters of {cross_section} mm² {metal} wire. How many ohms is that end to end?",
        ),
        answers=("The wire has {result} ohms.", "Its resistance is {result} ohms."),
        names=("ohms_of_wire", "cable_resistance", "conductor_resistance"),
        parameters={"length_m": ("wire_length",), "cross_section": ("area_mm2", "gauge"), "metal": ("material",)},
    ),
    Task(
        circuit_current,
        arguments={"voltage": one_of(1.5, 3, 4.5, 5, 9, 12, 24, 48, 110, 230), "total_ohms": decimal(2, 900)},
        queries=(
            "What current flows at {voltage} volts through {total_ohms} ohms?",
            "{voltage} V, {total_ohms} ohms, amps?",
            "If I put a {voltage} V supply on a circuit of {total_ohms} ohms, how many amperes do I get?",
            "Current, please. Resistance: {total_ohms} ohms. Source: {voltage} V.",
        ),
        answers=("A current of {result} A flows.", "That is {result} amperes."),
        names=("current_through", "amps_in_circuit", "ohms_law_current"),
        parameters={"voltage": ("volts", "source_voltage"), "total_ohms": ("resistance", "ohms")},
    ),
    Task(
        echo_distance,
        arguments={"delay": decimal(0.2, 9, 2), "medium": one_of("water", "ice", "steel")},
        queries=(
            "I shouted at a cliff and heard the echo {delay} seconds later. How far away is it?",
            "The sonar echo came back through {medium} after {delay} s. Distance?",
            "echo after {delay} s in {medium}",
            Query(
                "In air, an echo returns after {delay} seconds. What is the distance to the wall?", {"medium": "air"}
            ),
        ),
        answers=("It is {result} meters away.", "The distance is {result} m."),
        names=("distance_from_echo", "echo_range", "sounding_distance"),
        parameters={"delay": ("seconds", "echo_time"), "medium": ("material", "through")},
    ),
    Task(
        passing_pitch,
        arguments={"source_hz": whole(200, 1500), "source_speed": whole(5, 80)},
        queries=(
            "A siren of {source_hz} Hz comes toward me at {source_speed} m/s. What frequency do I hear?",
            Query(
                "What pitch does a {source_hz} Hz horn have when the train moves away at {source_speed} m/s?",
                {"approaching": False},
            ),
            Query("source {source_hz} Hz, approaching, {source_speed} m/s: heard frequency", {"approaching": True}),
            Query(
                "The ambulance leaves us behind at {source_speed} meters per second, wailing at {source_hz} hertz. "
                "Which frequency reaches us?",
                {"approaching": False},
            ),
        ),
        answers=("The frequency heard is {result} Hz.", "You hear {result} hertz."),
        names=("doppler_frequency", "heard_frequency", "shifted_pitch"),
        parameters={"source_hz": ("emitted",), "source_speed": ("speed", "v"), "approaching": ("coming_closer",)},
    ),
    Task(
        wave_length,
        arguments={"frequency": whole(50, 9500), "wave": one_of("sound", "radio")},
        queries=(
            "How long is a sound wave of {frequency} Hz?",
            "wavelength: {frequency} Hz, {wave}",
            Query(
                "My radio station sends at {frequency} hertz. What is the length of these radio waves?",
                {"wave": "radio"},
            ),
            "Please give me the length of a {wave} wave whose frequency is {frequency} hertz.",
        ),
        answers=("The wave is {result} m long.", "Its length is {result} meters."),
        names=("length_of_wave", "frequency_to_wavelength", "meters_per_wave"),
        parameters={"frequency": ("hertz", "f"), "wave": ("wave_type", "kind")},
    ),
    Task(
        heat_to_warm,
        arguments={"kilograms": decimal(0.2, 80), "degrees": whole(3, 90), "substance": one_of(*HEAT)},
        queries=(
            "How much heat warms {kilograms} kg of {substance} by {degrees} degrees?",
            "{substance}, {kilograms} kg, +{degrees} °C: kJ?",
            "We want {kilograms} kilograms of {substance} to get {degrees} degrees hotter. What energy is that?",
            "Energy to raise the temperature of {substance} by {degrees} °C if there are {kilograms} kg of it, please.",
        ),
        answers=("It takes {result} kJ.", "{result} kilojoules of heat are needed."),
        names=("warming_energy", "heat_needed", "kilojoules_to_heat"),
        parameters={"kilograms": ("mass",), "degrees": ("temperature_rise", "delta_t"), "substance": ("material",)},
        slips={"substance": (("H2O", "water"), ("Fe", "iron"), ("aluminium", "aluminum"))},
    ),
    Task(
        heating_minutes,
        arguments={"energy_kj": whole(50, 9000), "power_watts": whole(300, 3500), "lost_percent": whole(5, 40)},
        queries=(
            "How long must a {power_watts} watt heater run to give {energy_kj} kJ?",
            "{energy_kj} kJ from {power_watts} W with a loss of {lost_percent} percent: minutes?",
            "My kettle has {power_watts} W, but {lost_percent}% escapes. When has it delivered {energy_kj} kJ?",
            "Minutes needed, please. Energy: {energy_kj} kJ; heater: {power_watts} W.",
        ),
        answers=("It takes {result} minutes.", "The heater runs for {result} minutes."),
        names=("heater_run_time", "time_to_deliver_heat", "warmup_duration"),
        parameters={"energy_kj": ("kilojoules",), "power_watts": ("watts", "power"), "lost_percent": ("losses",)},
    ),
    Task(
        noise_level_at,
        arguments={"square": SQUARES, "time_of_day": clock()},
        queries=(
            "How loud was it on {square} at {time_of_day}?",
            "noise level, {square}, {time_of_day}",
            "I want to move to {square}. What do the microphones say for {time_of_day}?",
            "Please look up the decibels at {time_of_day} for {square}.",
        ),
        answers=("It was {result} dB.", "The measured level is {result} decibels."),
        names=("street_noise", "lookup_decibels", "get_noise_reading"),
        parameters={"square": ("location", "place"), "time_of_day": ("time", "at")},
    ),
    Task(
        fainter_at,
        arguments={"decibels": whole(60, 120), "meters": whole(2, 200)},
        queries=(
            "A machine has {decibels} dB at one meter. How loud is it {meters} m away?",
            "{decibels} dB at 1 m -> level at {meters} m?",
            "The neighbor's pump makes {decibels} decibels a meter from it. What arrives at {meters} meters?",
            "Compute the level at a distance of {meters} meters from a source of {decibels} dB.",
        ),
        answers=("{result} dB are left there.", "At that distance it is {result} dB."),
        names=("sound_level_at_distance", "attenuated_level", "noise_far_away"),
        parameters={"decibels": ("level_db",), "meters": ("distance",)},
    ),
)

CHAINS = (
    Chain(
        join_resistors,
        circuit_current,
        feeds="total_ohms",
        queries=(
            "Resistors of {resistors} ohms, {wiring}, on {voltage} volts. What current flows?",
            "I connect {resistors} ohm resistors {wiring} to a {voltage} V battery. How many amperes is that?",
            "{voltage} V on {resistors} ohms {wiring}: amps?",
        ),
        between=("Together they have {given} ohms.", "The total is {given} ohms. Now the current."),
        answers=("The current is {result} A.", "Through {given} ohms flow {result} amperes."),
    ),
    Chain(
        drop_from,
        energy_of_motion,
        feeds="velocity",
        takes="impact_speed",
        queries=(
            "With what energy does a stone of {mass_kg} kg land that fell from {drop_height} m?",
            "I drop {mass_kg} kg from {drop_height} meters. Energy at impact?",
            "Fall of {drop_height} m at {gravity} m/s², mass {mass_kg} kg: kinetic energy on landing?",
        ),
        between=("It lands at {given} m/s.", "The speed at impact is {given} m/s; now its energy."),
        answers=("It lands with {result} joules.", "At {given} m/s the energy is {result} J."),
    ),
    Chain(
        heat_to_warm,
        heating_minutes,
        feeds="energy_kj",
        queries=(
            "How long does a {power_watts} W heater need to warm {kilograms} kg of {substance} by {degrees} degrees?",
            "{kilograms} kg {substance}, {degrees} degrees hotter, {power_watts} watts, loss {lost_percent}%: minutes?",
            "Warm {kilograms} kg of {substance} by {degrees} °C using {power_watts} watts. When am I done?",
        ),
        between=("That takes {given} kJ.", "The heat needed is {given} kJ. Next, the time."),
        answers=("It takes {result} minutes.", "{given} kJ are delivered after {result} minutes."),
    ),
    Chain(
        passing_pitch,
        wave_length,
        feeds="frequency",
        queries=(
            "A {source_hz} Hz siren nears at {source_speed} m/s. How long are the waves that I hear?",
            Query(
                "The horn has {source_hz} Hz and moves away at {source_speed} m/s. Length of the waves reaching me?",
                {"approaching": False},
            ),
            "{source_hz} Hz coming closer at {source_speed} m/s: heard frequency, then its sound wave's length, please",
        ),
        between=("The frequency heard is {given} Hz.", "You hear {given} Hz. Now the wave."),
        answers=("These waves are {result} m long.", "At {given} Hz a wave measures {result} m."),
    ),
    Chain(
        noise_level_at,
        fainter_at,
        feeds="decibels",
        queries=(
            "How loud is the noise of {square} at {time_of_day} when I sit {meters} m away?",
            "Look up {square} at {time_of_day} and tell me the level at {meters} meters.",
            "My window is {meters} m from {square}. How many decibels reach me at {time_of_day}?",
        ),
        between=("There it was {given} dB at one meter.", "The reading is {given} dB; now the distance."),
        answers=("At your distance it is {result} dB.", "Of {given} dB, {result} dB arrive."),
    ),
)
