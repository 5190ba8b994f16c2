"""Devices of a home, a phone and a car: stand-ins for services, the states that they tell are made up."""

from __future__ import annotations

import math
from datetime import date as Date
from typing import Literal

from data_builders.tool_use.dialogs.samplers import clock, date, decimal, first_name, one_of, several, weekday, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice

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


PLACES = (
    "home", "work", "the gym", "Rose Garden", "night shift", "deep focus", "Sunday brunch", "long drive", "rainy day",
    "old hits")  # fmt: skip
room = one_of(*ROOMS)
plate = one_of(
    *(f"{a} {n} {b}" for a in ("KL", "BX", "TR", "MO", "ZE") for n in range(113, 990, 61) for b in ("X", "QF", "DA"))
)

TASKS = (
    Task(
        hold_room_temperature,
        arguments={"heated_room": room, "degrees": decimal(16, 25), "until": clock()},
        queries=(
            "Keep the {heated_room} at {degrees} degrees.",
            "It is freezing in the {heated_room}! Heat it to {degrees} °C until {until}, please.",
            "heating: {heated_room}, {degrees} C, until {until}",
            "Could you see to it that the {heated_room} stays at {degrees} degrees Celsius?",
        ),
        answers=("The valve opens to {valve_percent}%; it takes about {minutes_needed} minutes.",
                 "It will be that warm in {minutes_needed} minutes."),
        names=("heat_room", "set_room_heating", "thermostat_hold", "room_climate_target"),
        parameters={"heated_room": ("room", "zone"), "degrees": ("target_celsius", "temperature"),
                    "until": ("end_time",)},
    ),
    Task(
        read_room_sensor,
        arguments={"sensor_room": room,
                   "quantity": one_of(("temperature", "temperature"), ("humidity", "humidity"), ("co2", "CO2 level"))},
        queries=(
            "What is the {quantity} in the {sensor_room}?",
            "Read the {quantity} sensor of the {sensor_room}.",
            "Is the air in the {sensor_room} all right? I only want to know the {quantity}.",
            Query("How humid is the {sensor_room} right now?", fixed={"quantity": "humidity"}),
            Query("sensor {sensor_room}: temperature?", fixed={"quantity": "temperature"}),
        ),
        answers=("The sensor shows {result}.", "It is {result} at the moment."),
        names=("sensor_value", "get_room_reading", "measure_indoor"),
        parameters={"sensor_room": ("room", "location"), "quantity": ("measure", "sensor_type")},
    ),
    Task(
        dim_lights,
        arguments={"area": room, "brightness": whole(5, 95), "tone": one_of("warm", "neutral", "cold")},
        queries=(
            "Lights on in the {area}, please.",
            "Dim the {area} to {brightness} percent.",
            "Make the light in the {area} {tone}, at {brightness}%.",
            "We are about to watch a film. {brightness}% {tone} light in the {area} would be lovely.",
        ),
        answers=("{lamps} lamps are on and draw {watts} watts.", "The light is on ({tone}, {watts} W)."),
        names=("set_light_scene", "lamp_level", "adjust_lighting", "turn_on_lamps"),
        parameters={"area": ("room_name", "where"), "brightness": ("level", "percent"),
                    "tone": ("white_tone", "color")},
    ),
    Task(
        start_washing,
        arguments={"program": one_of("cotton", "delicates", "wool", "sport"),
                   "spin_speed": one_of(600, 800, 1000, 1200, 1400)},
        queries=(
            "Start the washing machine with the {program} program and {spin_speed} rpm.",
            "Wash my things, please: {program}, spin at {spin_speed}.",
            Query("Our baby has sensitive skin, so rinse once more: {program} program, {spin_speed} revolutions.",
                  fixed={"extra_rinse": True}),
            "laundry. program = {program}. spin = {spin_speed}",
        ),
        answers=("It runs for {minutes} minutes and takes {liters} liters.",
                 "Your laundry is done in {minutes} minutes."),
        names=("run_washer", "begin_laundry", "washing_machine_start"),
        parameters={"program": ("cycle", "mode"), "spin_speed": ("rpm", "spin"), "extra_rinse": ("rinse_twice",)},
        slips={"program": (("woolens", "wool"), ("sportswear", "sport"), ("cottons", "cotton"))},
    ),
    Task(
        wake_me,
        arguments={"wake_time": clock(), "weekdays": several(weekday(), 1, 4),
                   "sound": one_of("rooster", "harp", "waves", "radio", "drums", "birdsong")},
        queries=(
            "Wake me at {wake_time} on {weekdays}.",
            "Set an alarm for {wake_time}, days: {weekdays}, sound: {sound}.",
            "My new shift plan has me up at {wake_time} every {weekdays}. Alarm sound: {sound}, please.",
            "Alarm {wake_time} ({weekdays})",
        ),
        answers=("Alarm {result} is set.", "Done, the alarm has the number {result}."),
        names=("set_weekly_alarm", "add_alarm", "alarm_clock_on"),
        parameters={"wake_time": ("ring_at", "alarm_time"), "weekdays": ("repeat_on", "days"), "sound": ("tune",)},
    ),
    Task(
        clock_before,
        arguments={"leave_at": clock(), "minutes_before": whole(5, 180)},
        queries=(
            "What time is it {minutes_before} minutes before {leave_at}?",
            "My train leaves at {leave_at} and I need {minutes_before} minutes to get ready. When do I have to get up?",
            "{leave_at} minus {minutes_before} min = ?",
            "Tell me the time of day {minutes_before} minutes earlier than {leave_at}, please.",
        ),
        answers=("That is {result}.", "It is {result} then."),
        names=("time_earlier", "subtract_minutes", "count_back_from"),
        parameters={"leave_at": ("time_of_day", "end"), "minutes_before": ("minutes", "lead_minutes")},
    ),
    Task(
        locate_gadget,
        arguments={"owner": first_name(), "gadget": one_of("phone", "watch", "keys", "tablet")},
        queries=(
            "Where did {owner} leave the {gadget}?",
            "Find {owner}'s {gadget}.",
            Query("Make {owner}'s {gadget} ring and tell me which room it is in.", fixed={"ring": True}),
            "We are late and cannot find the {gadget} of {owner} anywhere in the house. Help!",
        ),
        answers=("Look in the {found_in}; its battery is at {battery}%.", "It is in the {found_in}."),
        names=("find_my_thing", "where_is_device", "track_item_at_home"),
        parameters={"owner": ("belongs_to", "person"), "gadget": ("device", "item"), "ring": ("play_sound",)},
    ),
    Task(
        car_status,
        arguments={"license_plate": plate},
        queries=(
            "How full is the battery of the car {license_plate}?",
            "Status of {license_plate}, please.",
            "Will we get far with {license_plate}? I mean, what do its battery and range say?",
            "electric car, plate {license_plate}: charge and range",
        ),
        answers=("The battery is at {battery_percent}%, good for {range_km} km.", "It can go {range_km} km."),
        names=("ev_state", "vehicle_battery", "check_my_car"),
        parameters={"license_plate": ("plate", "vehicle", "car_id")},
    ),
    Task(
        charging_stops,
        arguments={"trip_km": whole(300, 2400), "remaining_km": whole(40, 290), "full_range_km": whole(180, 520)},
        queries=(
            "How many times must I charge on a trip of {trip_km} km if the car still has {remaining_km} km in it?",
            "We drive {trip_km} kilometers. The battery lasts for {remaining_km} now and {full_range_km} after each "
            "charge. How many stops?",
            "Stops to charge: trip {trip_km} km, left {remaining_km} km, range when charged {full_range_km} km",
            "With {remaining_km} km of charge left, a {trip_km} km journey takes how many charging breaks?",
        ),
        answers=("You need to charge {result} times.", "Number of charging stops: {result}."),
        names=("count_recharges", "ev_trip_stops", "plan_charging"),
        parameters={"trip_km": ("distance",), "remaining_km": ("current_range", "km_left"),
                    "full_range_km": ("max_range",)},
    ),
    Task(
        play_music,
        arguments={"playlist": one_of(*PLACES), "speaker": room, "volume": whole(5, 90)},
        queries=(
            'Play "{playlist}" in the {speaker}.',
            "Put on my playlist {playlist} on the {speaker} speaker, volume {volume}.",
            Query("Shuffle '{playlist}' on the speaker in the {speaker}", fixed={"shuffle": True}),
            Query(
                "Guests are coming! {playlist}, random order, {speaker}, loudness {volume}.", fixed={"shuffle": True}),
        ),
        answers=("Playing {first_song}, the first of {songs} songs.", "The playlist has {songs} songs and starts now."),
        names=("start_playlist", "speaker_play", "music_on"),
        parameters={"playlist": ("playlist_name",), "speaker": ("output", "room"), "volume": ("loudness",),
                    "shuffle": ("random_order",)},
    ),
    Task(
        vacuum_rooms,
        arguments={"rooms": several(room, 1, 4), "begin": clock()},
        queries=(
            "Vacuum these rooms at {begin}: {rooms}.",
            "Send the robot through {rooms} at {begin}.",
            Query("Deep clean, please: {rooms}. Start at {begin}.", fixed={"deep_clean": True}),
            "The dog is shedding again. At {begin} the robot should do {rooms}; how long will that take?",
        ),
        answers=("The robot needs {result} minutes.", "Planned; it will take {result} minutes."),
        names=("robot_clean", "schedule_vacuuming", "clean_floors"),
        parameters={"rooms": ("areas", "zones"), "begin": ("start_at", "time"),
                    "deep_clean": ("thorough", "two_passes")},
    ),
    Task(
        power_used,
        arguments={
            "appliance": one_of("freezer", "dishwasher", "heat pump", "oven", "dryer", "aquarium", "sauna", "boiler"),
            "from_day": date("2024-01-01", "2024-06-30"), "to_day": date("2024-07-01", "2025-03-31")},
        queries=(
            "How much electricity did the {appliance} use from {from_day} to {to_day}?",
            "kWh of the {appliance}, {from_day} until {to_day}",
            "I have a suspicion about our {appliance}. Tell me what it consumed between {from_day} and {to_day}.",
            "Please read the meter of the {appliance} for the days {from_day} through {to_day}.",
        ),
        answers=("It used {result} kWh.", "The meter says {result} kilowatt-hours."),
        names=("appliance_consumption", "meter_reading", "energy_of_device"),
        parameters={"appliance": ("device", "meter"), "from_day": ("start_date",), "to_day": ("end_date",)},
    ),
    Task(
        carbon_of_power,
        arguments={"kilowatt_hours": decimal(5, 900), "grams_per_kwh": whole(40, 800)},
        queries=(
            "How much CO2 do {kilowatt_hours} kWh stand for?",
            "We used {kilowatt_hours} kilowatt-hours; our grid emits {grams_per_kwh} grams each. Carbon in kg?",
            "Carbon footprint of {kilowatt_hours} kWh at {grams_per_kwh} g/kWh",
            "Please work out the kilograms of carbon dioxide behind {kilowatt_hours} kWh of power.",
        ),
        answers=("That is {result} kg of carbon dioxide.", "It comes to {result} kilograms of CO2."),
        names=("electricity_emissions", "co2_from_kwh", "power_footprint"),
        parameters={"kilowatt_hours": ("kwh", "energy"), "grams_per_kwh": ("grid_intensity", "emission_factor")},
    ),
)  # fmt: skip

CHAINS = (
    Chain(
        read_room_sensor,
        hold_room_temperature,
        feeds="degrees",
        queries=(
            "Heat the {heated_room} to the same temperature as the {sensor_room} has now.",
            "The {sensor_room} feels just right. Have the {heated_room} kept at its temperature until {until}.",
            Query("Read the temperature in the {sensor_room} and set the {heated_room} to it.",
                  fixed={"quantity": "temperature"}),
        ),
        between=("It is {given} degrees there.", "The sensor shows {given}; I set the heating."),
        answers=("Set to {given} degrees; it takes {minutes_needed} minutes.", "The room will be held at {given} °C."),
    ),
    Chain(
        clock_before,
        wake_me,
        feeds="wake_time",
        queries=(
            "I leave at {leave_at} on {weekdays}. Wake me {minutes_before} minutes before that.",
            "Set an alarm {minutes_before} minutes before {leave_at}, every {weekdays}, with the sound {sound}.",
            "Alarm for {weekdays}: {minutes_before} min ahead of {leave_at}",
        ),
        between=("That is {given}.", "So you get up at {given}."),
        answers=("Alarm {result} rings at {given}.", "It is set for {given} ({result})."),
    ),
    Chain(
        locate_gadget,
        dim_lights,
        feeds="area",
        takes="found_in",
        queries=(
            "Find {owner}'s {gadget} and switch on the lights in that room.",
            "Where is the {gadget} of {owner}? Light the room up at {brightness} percent.",
            "{owner} lost the {gadget}. Locate it, then turn on {tone} light where it lies.",
        ),
        between=("It lies in the {given}.", "Found: {given}. Now the light."),
        answers=("It is in the {given}, where {lamps} lamps are on now.", "The light is on in the {given}."),
    ),
    Chain(
        car_status,
        charging_stops,
        feeds="remaining_km",
        takes="range_km",
        queries=(
            "We want to drive {trip_km} km with the car {license_plate}. How often do we have to charge?",
            "Check the range of {license_plate} and tell me the number of charging stops for {trip_km} km; a full "
            "battery gets us {full_range_km} km.",
            "{license_plate}, trip of {trip_km} kilometers: charging stops?",
        ),
        between=("The car still gets {given} km.", "{given} km are left in the battery."),
        answers=("Starting with {given} km you charge {result} times.", "You need {result} charging stops."),
    ),
    Chain(
        power_used,
        carbon_of_power,
        feeds="kilowatt_hours",
        queries=(
            "What carbon did our {appliance} cause from {from_day} to {to_day}?",
            "Look up the power that the {appliance} used between {from_day} and {to_day}, then its CO2 at "
            "{grams_per_kwh} g per kWh.",
            "CO2 of the {appliance}, {from_day} - {to_day}, grid at {grams_per_kwh} g/kWh",
        ),
        between=("It used {given} kWh.", "The consumption was {given} kilowatt-hours."),
        answers=("Its {given} kWh stand for {result} kg of CO2.", "That makes {result} kg."),
    ),
)  # fmt: skip
