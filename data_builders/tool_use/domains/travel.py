"""Trains, ferries, cars, hotels and luggage: stand-ins for services, whose fares, times and rules are all made up."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from data_builders.tool_use.dialogs.samplers import LAST_NAMES, city, clock, code, date, decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice

# fmt: off
RAIL = ("Amsterdam", "Barcelona", "Berlin", "Brussels", "Budapest", "Cologne", "Frankfurt", "Geneva", "Hamburg", "Lyon",
        "Madrid", "Milan", "Munich", "Naples", "Paris", "Prague", "Rome", "Turin", "Venice", "Vienna", "Zurich")
PORTS = ("Calais", "Dover", "Ancona", "Patras", "Split", "Bari", "Rostock", "Kiel", "Gdynia", "Oban", "Larvik")
COUNTRIES = ("Cuba", "Kenya", "Vietnam", "Chile", "Norway", "Jordan", "Peru", "Ghana", "Japan", "Morocco", "Nepal",
             "Fiji", "Oman", "Iceland", "Laos", "Malta", "Senegal", "Uruguay", "New Zealand", "South Korea")
# fmt: on
HOTELS = tuple(f"{a} {b}" for a in ("Hotel", "Pension", "Villa", "Casa") for b in ("Aurora", "Linde", "Miramar", "Sol"))


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


TASKS = (
    Task(
        next_train,
        arguments={"origin": one_of(*RAIL), "destination": one_of(*RAIL), "day": date(), "not_before": clock()},
        queries=(
            "When does the next direct train from {origin} to {destination} leave on {day}?",
            "I have to be in {destination} on {day}, from {origin}, not before {not_before}. Which train do I take?",
            "Train {origin} - {destination}, {day}, leaving {not_before} or later",
            "Could you check the rail connection to {destination} for {day}? I'd be getting on in {origin}.",
        ),
        answers=("Take {train}; it leaves at {departs}.", "The next direct train is {train}, departing at {departs}."),
        names=("find_direct_train", "rail_connection", "train_lookup", "search_trains"),
        parameters={"origin": ("from_city",), "destination": ("to_city",), "day": ("date",), "not_before": ("after",)},
        different=("origin", "destination"),
    ),
    Task(
        berth_fare,
        arguments={
            "train_number": code("EN 999"),
            "berth": one_of("seat", "couchette", "sleeper"),
            "travelers": whole(2, 6),
        },
        queries=(
            "What does a {berth} on {train_number} cost?",
            "There are {travelers} of us on night train {train_number}. How much for a {berth} each?",
            "Fare {train_number}, {berth}, {travelers} people",
            "I'm thinking about taking {train_number} overnight, in a {berth}. What would I pay?",
        ),
        answers=("That costs {result} euros.", "The fare is {result} euros."),
        names=("night_train_price", "sleeper_price", "get_berth_price"),
        parameters={"train_number": ("train", "train_id"), "berth": ("place_type",), "travelers": ("passengers",)},
        slips={"berth": (("bed", "sleeper"), ("bunk", "couchette"), ("chair", "seat"))},
    ),
    Task(
        ferry_crossing_price,
        arguments={
            "from_port": one_of(*PORTS),
            "to_port": one_of(*PORTS),
            "vehicle": one_of("car", "motorbike", "camper"),
        },
        queries=(
            "How much is the ferry from {from_port} to {to_port}?",
            "We want to take our {vehicle} across from {from_port} to {to_port}. What will the ship cost?",
            Query("Price of the crossing {from_port} to {to_port} with a {vehicle} and a cabin?", {"cabin": True}),
            Query("Going on foot from {from_port} to {to_port} by ferry, no car. The fare?", {"vehicle": "none"}),
        ),
        answers=("The crossing costs {result} euros.", "You pay {result} euros for the ferry."),
        names=("ferry_fare", "quote_ferry", "ship_crossing_cost"),
        parameters={"from_port": ("departure_port",), "to_port": ("arrival_port",), "vehicle": ("vehicle_type",)},
        different=("from_port", "to_port"),
    ),
    Task(
        rental_car_quote,
        arguments={
            "pickup_city": city(),
            "car_class": one_of("mini", "compact", ("station_wagon", "station wagon"), "van"),
            "days": whole(2, 28),
            "driver_age": whole(19, 70),
        },
        queries=(
            "I need a {car_class} in {pickup_city} for {days} days. What's the price?",
            "Quote: {car_class}, {days} days, {pickup_city}, driver aged {driver_age}",
            "My daughter is {driver_age} and wants to hire a {car_class} in {pickup_city} for {days} days. How much?",
            "Would you find out what hiring a {car_class} costs? We land in {pickup_city} and keep it {days} days.",
        ),
        answers=("It is {per_day} a day, {total} in total.", "The car costs {total}, which is {per_day} per day."),
        names=("car_hire_price", "quote_rental_car", "hire_car_offer"),
        parameters={"pickup_city": ("city", "location"), "car_class": ("category",), "days": ("rental_days",)},
    ),
    Task(
        hotel_stay_cost,
        arguments={"hotel": one_of(*HOTELS), "check_in": date(), "nights": whole(2, 14)},
        queries=(
            "What would {nights} nights at {hotel} cost, arriving {check_in}?",
            Query("A room with breakfast at {hotel}, {check_in}, {nights} nights: how much?", {"breakfast": True}),
            "We'd like to stay at {hotel} for {nights} nights from {check_in}. Please tell me the total.",
            "{hotel} / {check_in} / {nights} nights / price?",
        ),
        answers=("The stay costs {result} euros.", "For these nights the hotel asks {result} euros."),
        names=("room_total", "price_of_stay", "quote_hotel_room"),
        parameters={"hotel": ("hotel_name",), "check_in": ("arrival", "from_date"), "nights": ("night_count",)},
    ),
    Task(
        entry_permit_rule,
        arguments={"passport": one_of(*COUNTRIES), "country": one_of(*COUNTRIES), "stay_days": whole(3, 120)},
        queries=(
            "I hold a passport from {passport} and want to spend {stay_days} days in {country}. Do I need a visa?",
            "Visa for {country}? {stay_days} days, passport: {passport}.",
            "My wife's passport is from {passport}. What papers does she need for {stay_days} days in {country}?",
            "Please check the entry rules of {country} for citizens of {passport}, stay of {stay_days} days.",
        ),
        answers=("The rule is: {result}.", "For this trip: {result}."),
        names=("visa_requirement_for_stay", "check_entry_rules", "travel_permit_needed"),
        parameters={"passport": ("nationality", "passport_country"), "country": ("visiting",), "stay_days": ("days",)},
        different=("passport", "country"),
    ),
    Task(
        excess_baggage_fee,
        arguments={
            "airline": one_of(*(f"{a} {b}" for a in ("Polar", "Blue", "Sierra", "Sun") for b in ("Air", "Wings"))),
            "bag_weights": several(decimal(18, 36), 2, 4),
            "allowance_kg": one_of(15, 20, 25),
        },
        queries=(
            "My bags weigh {bag_weights} kg. What does {airline} charge for the excess?",
            "With {airline} I may take {allowance_kg} kg per bag, but they weigh {bag_weights} kg. What's the fee?",
            "{airline}: overweight fee for bags of {bag_weights} kilos, {allowance_kg} kilos free each",
            "We just put our luggage on the scale: {bag_weights} kg. How much will we have to pay to {airline}?",
        ),
        answers=("The fee is {result} euros.", "{result} euros are due for the excess weight."),
        names=("overweight_luggage_charge", "heavy_bag_fee", "baggage_surcharge"),
        parameters={"airline": ("carrier",), "bag_weights": ("weights_kg", "bags"), "allowance_kg": ("free_kg",)},
    ),
    Task(
        road_trip_length,
        arguments={"stops": several(one_of(*RAIL), 3, 5)},
        queries=(
            "How far is it to drive through {stops}, in this order?",
            Query("Plan a drive without toll roads: {stops}. How long is it?", {"avoid_tolls": True}),
            "We're driving {stops} this summer. How many kilometers will that be?",
            "route length, stops: {stops}",
        ),
        answers=("The drive is {kilometers} km, about {hours} hours.", "{kilometers} kilometers and {hours} hours."),
        names=("drive_distance", "multi_stop_route", "route_through_towns"),
        parameters={"stops": ("towns", "waypoints"), "avoid_tolls": ("no_tolls",)},
    ),
    Task(
        fuel_budget,
        arguments={
            "route_km": whole(80, 2400),
            "liters_per_100_km": decimal(4, 12),
            "liter_price": decimal(1.2, 2.3, 2),
        },
        queries=(
            "What will fuel cost for {route_km} km at {liters_per_100_km} liters per 100 km and {liter_price} a liter?",
            "My van drinks {liters_per_100_km} l/100 km. Gas is {liter_price} per liter; {route_km} km to go. Cost?",
            "Fuel money: {route_km} kilometers, {liters_per_100_km} l per 100 km, price {liter_price}",
            "Petrol is {liter_price} a liter. What do {route_km} km cost with {liters_per_100_km} l per 100 km?",
        ),
        answers=("The fuel costs {result}.", "Set {result} aside for fuel."),
        names=("trip_fuel_cost", "gas_money", "petrol_expense"),
        parameters={"route_km": ("distance_km", "kilometers"), "liters_per_100_km": ("consumption",)},
    ),
    Task(
        trace_lost_bag,
        arguments={"tag_number": code("AA999999"), "family_name": one_of(*LAST_NAMES)},
        queries=(
            "My suitcase didn't arrive. The tag says {tag_number}, and my last name is {family_name}. Where is it?",
            "Trace bag {tag_number}, owner {family_name}.",
            "Is there any news of the bag with tag {tag_number}? It belongs to Ms. {family_name}.",
            "Lost luggage, name: {family_name}, tag: {tag_number}",
        ),
        answers=("The state of the bag: {result}.", "Your bag is {result}."),
        names=("find_missing_luggage", "baggage_status", "locate_suitcase"),
        parameters={"tag_number": ("tag", "bag_tag"), "family_name": ("last_name", "surname")},
    ),
    Task(
        delay_refund,
        arguments={"ticket_price": decimal(15, 240, 2), "minutes_late": whole(20, 240)},
        queries=(
            "We came in {minutes_late} minutes late. My ticket cost {ticket_price} euros. What do I get back?",
            "Refund for a delay of {minutes_late} min on a {ticket_price} euro ticket?",
            "I paid {ticket_price} euros and the train was {minutes_late} minutes late. How much compensation is due?",
            "ticket: {ticket_price}, delay: {minutes_late} minutes, refund: ?",
        ),
        answers=("You get {result} euros back.", "The refund is {result} euros."),
        names=("late_arrival_compensation", "refund_for_delay", "delay_payback"),
        parameters={"ticket_price": ("fare", "price_paid"), "minutes_late": ("delay_minutes", "delay")},
    ),
    Task(
        trip_share,
        arguments={"amount": decimal(200, 4000, 2), "people": whole(2, 9), "deposit_each": one_of(10, 20, 25, 40)},
        queries=(
            "The cabin came to {amount} euros and we were {people} people. How much does each owe?",
            "Split a travel bill of {amount} euros by {people}; everyone has paid a deposit of {deposit_each} already.",
            "{people} friends, bill {amount} euros, {deposit_each} euros each paid in advance. What's left per person?",
            "What is my part of the {amount} euros for our holiday if {people} of us went?",
        ),
        answers=("Each person owes {result} euros.", "That leaves {result} euros per head."),
        names=("share_of_bill", "split_travel_bill", "amount_per_traveler"),
        parameters={"amount": ("bill", "total_cost"), "people": ("group_size",), "deposit_each": ("prepaid",)},
    ),
)

CHAINS = (
    Chain(
        next_train,
        berth_fare,
        feeds="train_number",
        takes="train",
        queries=(
            "Which train goes from {origin} to {destination} on {day}, and what does a {berth} on it cost?",
            "Find me the train {origin} - {destination} on {day} and price a {berth} for {travelers} people.",
            "I travel from {origin} to {destination} on {day}, not before {not_before}. How much is a {berth}?",
        ),
        between=("The train is {given}. Now its fare.", "You would take {given}; let me price it."),
        answers=("On {given} that costs {result} euros.", "The train is {given}, the price {result} euros."),
    ),
    Chain(
        road_trip_length,
        fuel_budget,
        feeds="route_km",
        takes="kilometers",
        queries=(
            "We drive {stops}. What does fuel cost at {liters_per_100_km} l/100 km and {liter_price} a liter?",
            "Fuel for a trip through {stops}: {liters_per_100_km} l/100 km, a liter is {liter_price}.",
            Query(
                "Fuel for {stops} off the toll roads, {liters_per_100_km} l/100 km, {liter_price}?",
                {"avoid_tolls": True},
            ),
        ),
        between=("The route is {given} km. Next, the fuel.", "That is a drive of {given} km."),
        answers=("Fuel for the {given} km costs {result}.", "You will spend {result} on fuel."),
    ),
    Chain(
        berth_fare,
        delay_refund,
        feeds="ticket_price",
        queries=(
            "I had a {berth} on {train_number}, and we were {minutes_late} minutes late. What refund do I get?",
            "Look up the fare of a {berth} on {train_number}. What comes back for {minutes_late} minutes' delay?",
            "{train_number} arrived {minutes_late} minutes late. We were {travelers} people, {berth}. Our refund?",
        ),
        between=("The fare was {given} euros.", "You paid {given} euros. Now the refund."),
        answers=("Of {given} euros you get {result} back.", "The refund is {result} euros."),
    ),
    Chain(
        ferry_crossing_price,
        trip_share,
        feeds="amount",
        queries=(
            "{people} of us take one {vehicle} on the ferry from {from_port} to {to_port}. What does each pay?",
            "Ferry {from_port} - {to_port} with a {vehicle}, shared by {people} people: cost per person?",
            Query("Price of a {vehicle} and a cabin, {from_port} to {to_port}, split by {people}?", {"cabin": True}),
        ),
        between=("The crossing costs {given} euros.", "First the fare: {given} euros. Now I divide it."),
        answers=("Each of you pays {result} euros.", "Of the {given} euros, everyone pays {result}."),
    ),
    Chain(
        hotel_stay_cost,
        trip_share,
        feeds="amount",
        queries=(
            "If {people} of us share {nights} nights at {hotel} from {check_in}, what is my part?",
            "{hotel}, arriving {check_in}, {nights} nights, paid by {people} people. How much per person?",
            "{people} of us, {deposit_each} euros each prepaid: {nights} nights at {hotel} from {check_in}. The rest?",
        ),
        between=("The stay is {given} euros altogether.", "The hotel asks {given} euros."),
        answers=("That is {result} euros each.", "Everyone still owes {result} euros of the {given}."),
    ),
)
