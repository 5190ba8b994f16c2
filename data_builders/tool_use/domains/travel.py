"""Trains, ferries, cars, hotels and luggage: stand-ins for services, whose fares, times and rules are all made up."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice

# fmt: off
# fmt: on


def next_train(origin: str, destination: str, day: str, not_before: str = "05:00") -> dict:
    """Look up the next direct train between two cities.

    Args:
        origin: City where the journey starts.
        destination: City where the journey ends.
        day: Day of travel, YYYY-MM-DD.
        not_before: Earliest departure, HH:MM on the 24-hour clock. Default is 05:00.
    """
    hour, minute = (int(part) for part in not_before.split(":"))
    minutes = min(hour * 60 + minute + made_up(3, 110, origin, destination, day), 23 * 60 + 59)
    return {
        "train": f"{made_up_choice(('IC', 'EC', 'RJ'), origin, destination)} {made_up(100, 999, origin, destination)}",
        "departs": f"{minutes // 60:02d}:{minutes % 60:02d}",
    }


def berth_fare(train_number: str, berth: str, travelers: int = 1) -> float:
    """Price in euros of places on a night train.

    Args:
        train_number: Number of the train, such as "EN 402".
        berth: Kind of place: seat, couchette or sleeper.
        travelers: How many people travel. Defaults to 1.
    """
    if berth not in ("seat", "couchette", "sleeper"):
        raise ValueError(f"berth {berth!r} does not exist; choose one of: seat, couchette, sleeper")
    return made_up(290, 790, train_number) / 10 * {"seat": 1, "couchette": 2, "sleeper": 3}[berth] * travelers


def ferry_crossing_price(
    from_port: str, to_port: str, vehicle: Literal["none", "car", "motorbike", "camper"] = "none", cabin: bool = False
) -> float:
    """What a single ferry crossing costs, in euros.

    Args:
        from_port: Port of departure.
        to_port: Port of arrival.
        vehicle: Vehicle taken aboard; none for foot passengers.
        cabin: Whether a cabin is booked too.
    """
    extra = {"none": 0, "motorbike": 24, "car": 48.5, "camper": 95}[vehicle]
    return round(made_up(180, 690, *sorted((from_port, to_port))) / 10 + extra + (62 if cabin else 0), 2)


def rental_car_quote(
    pickup_city: str, car_class: Literal["mini", "compact", "station_wagon", "van"], days: int, driver_age: int = 30
) -> dict:
    """Quote for a rented car.

    Args:
        pickup_city: City where the car is picked up and given back.
        car_class: Size of the car.
        days: Rental period in days.
        driver_age: Age of the youngest driver in years; drivers under 25 pay more.
    """
    per_day = made_up(28, 95, pickup_city, car_class) + (12 if driver_age < 25 else 0)
    return {"per_day": per_day, "total": per_day * days}


def hotel_stay_cost(hotel: str, check_in: str, nights: int, breakfast: bool = False) -> float:
    """Total price in euros of a double room.

    Args:
        hotel: Name of the hotel.
        check_in: Date of arrival (YYYY-MM-DD).
        nights: Number of nights.
        breakfast: Set to true to include breakfast for two.
    """
    return round((made_up(620, 2400, hotel, check_in[:7]) / 10 + (18.5 if breakfast else 0)) * nights, 2)


def entry_permit_rule(passport: str, country: str, stay_days: int) -> str:
    """Tell which permit a traveler needs to enter a country.

    Args:
        passport: Country that issued the passport.
        country: Country to be visited.
        stay_days: Planned length of stay in days.
    """
    rules = ("no permit needed", "electronic authorization", "visa on arrival", "visa from the embassy")
    return made_up_choice(rules, passport, country, stay_days > 30)


def excess_baggage_fee(airline: str, bag_weights: list[float], allowance_kg: float = 23) -> float:
    """Fee for checked bags that are too heavy.

    Args:
        airline: Name of the airline.
        bag_weights: Weight of every bag in kilograms.
        allowance_kg: Weight that is free for each bag. Default is 23.
    """
    return round(sum(max(0, weight - allowance_kg) for weight in bag_weights) * made_up(6, 15, airline), 2)


def road_trip_length(stops: list[str], avoid_tolls: bool = False) -> dict:
    """Length of a drive through several towns, in the order given.

    Args:
        stops: Towns from the first to the last.
        avoid_tolls: Keep off toll roads.
    """
    legs = [made_up(90, 640, *sorted(pair)) for pair in pairwise(stops)]
    kilometers = round(sum(legs) * (1.15 if avoid_tolls else 1), 1)
    return {"kilometers": kilometers, "hours": round(kilometers / (72 if avoid_tolls else 95), 1)}


def fuel_budget(route_km: float, liters_per_100_km: float, liter_price: float) -> float:
    """Cost of the fuel for a drive.

    Args:
        route_km: Distance in kilometers.
        liters_per_100_km: Consumption of the car.
        liter_price: Price of one liter of fuel.
    """
    return round(route_km / 100 * liters_per_100_km * liter_price, 2)


def trace_lost_bag(tag_number: str, family_name: str) -> str:
    """Say where a bag that did not arrive is now.

    Args:
        tag_number: Number on the baggage tag, such as LX482913.
        family_name: Family name of the owner.
    """
    states = ("found, on its way", "still being searched", "waiting at the counter", "with the courier")
    return made_up_choice(states, tag_number, family_name)


def delay_refund(ticket_price: float, minutes_late: int) -> float:
    """Share of a ticket that is paid back after a delay: a quarter from 60 minutes, half from 120.

    Args:
        ticket_price: What the ticket cost, in euros.
        minutes_late: Delay at the destination, in minutes.
    """
    return round(ticket_price * (0.5 if minutes_late >= 120 else 0.25 if minutes_late >= 60 else 0), 2)


def trip_share(amount: float, people: int, deposit_each: float = 0) -> float:
    """What each person still owes of a shared travel bill.

    Args:
        amount: Whole bill in euros.
        people: Number of people who share it.
        deposit_each: What each has paid already. Default is 0.
    """
    return round(amount / people - deposit_each, 2)
