"""Household and workshop: paint, tiles, fuel, recipes, garden beds and electricity."""

from __future__ import annotations

import math
from typing import Literal

from data_builders.tool_use.dialogs.samplers import decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task


def net_wall_surface(room_length: float, room_width: float, ceiling_height: float, openings: float = 0.0) -> float:
    """Surface of the four walls of a room without its doors and windows, in square meters.

    Args:
        room_length: Length of the room in meters.
        room_width: Width of the room in meters.
        ceiling_height: Height of the walls in meters.
        openings: Square meters of doors and windows to leave out. Default is 0.
    """
    return round(2 * (room_length + room_width) * ceiling_height - openings, 2)


def paint_liters(surface: float, coats: int = 2, ground: str = "smooth") -> float:
    """Liters of paint that a wall takes.

    Args:
        surface: Square meters to be painted.
        coats: How many times the wall is painted over. Default is 2.
        ground: What the wall is like: smooth (10 square meters a liter), rough (7) or bare (5).
    """
    reach = {"smooth": 10, "rough": 7, "bare": 5}
    if ground not in reach:
        raise ValueError(f"ground {ground!r} is not known; use one of smooth, rough, bare")
    return round(surface * coats / reach[ground], 2)


def paint_cans_cost(liters_needed: float, can_liters: float, can_price: float) -> float:
    """Price of the full cans that hold enough paint.

    Args:
        liters_needed: Liters of paint that are wanted.
        can_liters: Liters in a can.
        can_price: Price of a can.
    """
    return round(math.ceil(liters_needed / can_liters) * can_price, 2)


def tiles_needed(tiled_surface: float, tile_side_cm: float, waste_percent: float = 0.0) -> int:
    """Number of square tiles that cover a surface, broken ones included.

    Args:
        tiled_surface: Surface in square meters.
        tile_side_cm: Side of a tile in centimeters.
        waste_percent: Share of tiles that break or are cut away, in percent. Default is 0.
    """
    return math.ceil(round(tiled_surface * 10_000 / tile_side_cm**2 * (1 + waste_percent / 100), 6))


def tile_boxes_price(tile_count: int, tiles_per_box: int, box_price: float) -> float:
    """What the tiles cost when only full boxes are sold.

    Args:
        tile_count: Tiles that are needed.
        tiles_per_box: Tiles in each box.
        box_price: Price of one box.
    """
    return round(math.ceil(tile_count / tiles_per_box) * box_price, 2)


def trip_fuel(distance_km: float, liters_per_100km: float, round_trip: bool = False) -> float:
    """Liters of fuel that a car burns on a trip.

    Args:
        distance_km: Kilometers one way.
        liters_per_100km: Consumption of the car.
        round_trip: Whether the way back counts too.
    """
    return round(distance_km * (2 if round_trip else 1) * liters_per_100km / 100, 2)


def fuel_share(fuel_liters: float, liter_price: float, riders: int = 1) -> float:
    """What each rider pays for the fuel of a trip.

    Args:
        fuel_liters: Liters of fuel that were burned.
        liter_price: Price of a liter at the pump.
        riders: People who split the bill evenly, the driver among them.
    """
    return round(fuel_liters * liter_price / riders, 2)


def appliances_energy(watts: list[float], hours_per_day: float, days: int = 30) -> float:
    """Kilowatt-hours that a group of appliances uses.

    Args:
        watts: Power of each appliance in watts.
        hours_per_day: Hours that they all run on a day.
        days: Number of days. Default is 30.
    """
    return round(sum(watts) * hours_per_day * days / 1000, 3)


def electricity_bill(energy_kwh: float, cents_per_kwh: float, base_fee: float = 0.0) -> float:
    """Electricity bill in whole currency units (100 cents are one).

    Args:
        energy_kwh: Electricity used, in kilowatt-hours.
        cents_per_kwh: Price in cents for one kilowatt-hour.
        base_fee: Fixed fee that is added, such as 12.50. Default is 0.
    """
    return round(energy_kwh * cents_per_kwh / 100 + base_fee, 2)


def bed_soil_liters(bed_length_cm: int, bed_width_cm: int, fill_depth_cm: int, beds: int = 1) -> float:
    """Liters of soil that fill raised garden beds.

    Args:
        bed_length_cm: Inner length of a bed, in cm.
        bed_width_cm: Inner width of a bed, in cm.
        fill_depth_cm: How deep the soil shall be, in cm.
        beds: How many such beds there are. Default is 1.
    """
    return round(bed_length_cm * bed_width_cm * fill_depth_cm * beds / 1000, 2)


def soil_bags(soil_liters: float, bag_liters: int, reserve_percent: int = 0) -> int:
    """Number of bags of soil to buy.

    Args:
        soil_liters: Liters of soil that are wanted.
        bag_liters: Liters in a bag.
        reserve_percent: What to buy on top because soil settles, in percent.
    """
    return math.ceil(round(soil_liters * (1 + reserve_percent / 100) / bag_liters, 6))


def scale_ingredient(recipe_grams: float, recipe_servings: int, wanted_servings: int) -> float:
    """Grams of an ingredient when a recipe is cooked for another number of people.

    Args:
        recipe_grams: Grams that the recipe asks for.
        recipe_servings: Servings that the recipe makes.
        wanted_servings: Servings that are wanted.
    """
    return round(recipe_grams * wanted_servings / recipe_servings, 2)


def cups_of(ingredient_grams: float, ingredient: Literal["flour", "sugar", "butter", "rice", "honey"]) -> float:
    """Kitchen cups that hold a weight of an ingredient.

    Args:
        ingredient_grams: Weight in grams.
        ingredient: Which of the known ingredients it is.
    """
    return round(
        ingredient_grams / {"flour": 125, "sugar": 200, "butter": 227, "rice": 185, "honey": 340}[ingredient], 2
    )


def household_share(total_price: float, people: int, discount_percent: float = 0.0) -> float:
    """What each person of a household pays of a shared purchase.

    Args:
        total_price: Price of everything.
        people: Number of people who share.
        discount_percent: Discount on the price, in percent. Default is 0.
    """
    return round(total_price * (1 - discount_percent / 100) / people, 2)


TASKS = (
    Task(
        net_wall_surface,
        arguments={"room_length": decimal(3, 9), "room_width": decimal(2.5, 6), "ceiling_height": decimal(2.2, 3.5),
                   "openings": decimal(1.5, 8)},
        queries=(
            "My room is {room_length} m by {room_width} m and {ceiling_height} m high. How much wall is that?",
            "Wall surface: length {room_length} m, width {room_width} m, height {ceiling_height} m, minus {openings} "
            "m2 of doors and windows",
            "The nursery measures {room_length} x {room_width} meters with a ceiling at {ceiling_height}. "
            "Leaving out {openings} square meters of windows, how large are its walls?",
            "How many square meters of wall does a {room_length} by {room_width} m room with {ceiling_height} m "
            "walls have?",
        ),
        answers=("The walls have {result} square meters.", "That is {result} square meters of wall."),
        names=("wall_square_meters", "room_walls_area", "compute_wall_surface"),
        parameters={"room_length": ("length_m",), "room_width": ("width_m",),
                    "ceiling_height": ("wall_height", "height_m"), "openings": ("doors_and_windows",)},
    ),
    Task(
        paint_liters,
        arguments={"surface": decimal(8, 90), "coats": whole(2, 4), "ground": one_of("smooth", "rough", "bare")},
        queries=(
            "How much paint do I need for {surface} square meters of wall?",
            "{surface} m2, {coats} coats, {ground} wall: how many liters of paint?",
            "I want to paint {surface} square meters of {ground} wall. How many liters should I get?",
            "Paint for {coats} coats on {surface} square meters, please.",
        ),
        answers=("You need {result} liters of paint.", "It takes {result} liters."),
        names=("paint_required", "wall_paint_amount", "liters_to_paint"),
        parameters={"surface": ("wall_area", "square_meters"), "coats": ("layers",),
                    "ground": ("wall_type", "texture")},
        slips={"ground": (("raw", "bare"), ("even", "smooth"), ("coarse", "rough"))},
    ),
    Task(
        paint_cans_cost,
        arguments={"liters_needed": decimal(4, 60), "can_liters": one_of(1, 2.5, 5, 10),
                   "can_price": decimal(9, 80, 2)},
        queries=(
            "I need {liters_needed} liters of paint. A can holds {can_liters} liters and costs {can_price}. Total "
            "price?",
            "What do I pay for {liters_needed} l of paint in cans of {can_liters} l at {can_price} each?",
            "cans of paint: {can_liters} liters for {can_price}; wanted: {liters_needed} liters; cost?",
            "The shop sells {can_liters}-liter cans for {can_price} dollars. How much for at least {liters_needed} "
            "liters?",
        ),
        answers=("The cans cost {result}.", "You pay {result} for the paint."),
        names=("price_of_paint", "paint_can_total", "cost_of_cans"),
        parameters={"liters_needed": ("paint_amount",), "can_liters": ("can_size",), "can_price": ("price_per_can",)},
    ),
    Task(
        tiles_needed,
        arguments={"tiled_surface": decimal(3, 40), "tile_side_cm": one_of(10, 15, 20, 25, 30, 33.3, 45, 60),
                   "waste_percent": one_of(*((n, f"{n}%") for n in (3, 5, 8, 10, 12, 15)))},
        queries=(
            "How many {tile_side_cm} cm square tiles cover {tiled_surface} square meters?",
            "Tiles for {tiled_surface} m2, side {tile_side_cm} cm, {waste_percent} waste",
            "We are redoing the bathroom: {tiled_surface} square meters with square tiles of {tile_side_cm} cm, and "
            "about {waste_percent} of them will break. How many should we buy?",
            "Please count the tiles with {tile_side_cm} centimeter sides that I need for {tiled_surface} square "
            "meters.",
        ),
        answers=("You need {result} tiles.", "{result} tiles will do."),
        names=("tile_count_for", "number_of_tiles", "tiling_quantity"),
        parameters={"tiled_surface": ("area_m2", "floor"), "tile_side_cm": ("tile_size", "edge_cm"),
                    "waste_percent": ("breakage",)},
    ),
    Task(
        tile_boxes_price,
        arguments={"tile_count": whole(40, 900), "tiles_per_box": whole(6, 30), "box_price": decimal(11, 70, 2)},
        queries=(
            "I need {tile_count} tiles; a box has {tiles_per_box} and costs {box_price}. What do I pay?",
            "Boxes of {tiles_per_box} tiles at {box_price} each, {tile_count} tiles wanted. Price?",
            "What is the price of {tile_count} tiles if they only come in boxes of {tiles_per_box} for {box_price}?",
            "tiles: {tile_count} / per box: {tiles_per_box} / price of a box: {box_price}",
        ),
        answers=("The tiles cost {result}.", "You pay {result} for full boxes."),
        names=("price_of_tiles", "tile_purchase_total", "cost_of_boxes"),
        parameters={"tile_count": ("tiles",), "tiles_per_box": ("box_size", "pieces_in_box"), "box_price": ("price",)},
    ),
    Task(
        trip_fuel,
        arguments={"distance_km": decimal(15, 900), "liters_per_100km": decimal(4, 14)},
        queries=(
            "How much fuel does a {distance_km} km drive take at {liters_per_100km} liters per 100 km?",
            Query("I drive {distance_km} km to my parents and back again. My van burns {liters_per_100km} l/100 km. "
                  "How many liters?", fixed={"round_trip": True}),
            "Fuel: {distance_km} kilometers, {liters_per_100km} l per 100 km",
            Query("Liters for a round trip, {distance_km} km each way, consumption {liters_per_100km}?",
                  fixed={"round_trip": True}),
        ),
        answers=("The trip takes {result} liters of fuel.", "You will burn {result} liters."),
        names=("fuel_for_distance", "liters_burned", "car_trip_consumption"),
        parameters={"distance_km": ("kilometers", "one_way_km"), "liters_per_100km": ("consumption",),
                    "round_trip": ("both_ways", "return_trip")},
    ),
    Task(
        fuel_share,
        arguments={"fuel_liters": decimal(5, 90), "liter_price": decimal(1.2, 2.4, 2), "riders": whole(2, 6)},
        queries=(
            "What do {fuel_liters} liters of fuel cost at {liter_price} a liter?",
            "We are {riders} in the car and burned {fuel_liters} liters at {liter_price} each. What does each of us "
            "pay?",
            "fuel {fuel_liters} l, price {liter_price}/l, split among {riders} people",
            "The pump says {liter_price} per liter. How much is {fuel_liters} liters?",
        ),
        answers=("It costs {result}.", "That makes {result}."),
        names=("split_fuel_bill", "gas_money", "fuel_cost_each"),
        parameters={"fuel_liters": ("liters", "volume"), "liter_price": ("price_per_liter",),
                    "riders": ("passengers",)},
    ),
    Task(
        appliances_energy,
        arguments={"watts": several(whole(20, 2200), 2, 5), "hours_per_day": decimal(0.5, 12), "days": whole(5, 90)},
        queries=(
            "How many kWh do appliances of {watts} watts use in {days} days at {hours_per_day} hours a day?",
            "These run {hours_per_day} hours daily: {watts} W. How much electricity is that in a month?",
            "energy use; powers {watts} W; {hours_per_day} h per day; {days} days",
            "My devices have {watts} watts and are on for {hours_per_day} hours every day. Kilowatt-hours in {days} "
            "days?",
        ),
        answers=("They use {result} kWh.", "That is {result} kilowatt-hours."),
        names=("devices_consumption", "kwh_of_appliances", "energy_of_devices"),
        parameters={"watts": ("powers", "wattages"), "hours_per_day": ("daily_hours",), "days": ("period_days",)},
    ),
    Task(
        electricity_bill,
        arguments={"energy_kwh": decimal(20, 700), "cents_per_kwh": decimal(9, 48), "base_fee": decimal(4, 25, 2)},
        queries=(
            "What do {energy_kwh} kWh cost at {cents_per_kwh} cents each?",
            "We used {energy_kwh} kilowatt-hours at {cents_per_kwh} cents, plus a base fee of {base_fee}. What is "
            "the bill?",
            "power bill: {energy_kwh} kWh, {cents_per_kwh} ct/kWh, fixed fee {base_fee}",
            "Please work out my electricity bill for {energy_kwh} kWh. The price is {cents_per_kwh} cents per kWh.",
        ),
        answers=("The bill is {result}.", "You pay {result}."),
        names=("power_bill_total", "cost_of_electricity", "utility_bill"),
        parameters={"energy_kwh": ("kwh", "usage"), "cents_per_kwh": ("price_cents", "rate"),
                    "base_fee": ("fixed_fee",)},
    ),
    Task(
        bed_soil_liters,
        arguments={"bed_length_cm": whole(80, 300), "bed_width_cm": whole(50, 140), "fill_depth_cm": whole(15, 80),
                   "beds": whole(2, 6)},
        queries=(
            "How many liters of soil fill a raised bed {bed_length_cm} cm long, {bed_width_cm} cm wide, filled "
            "{fill_depth_cm} cm deep?",
            "I built {beds} beds of {bed_length_cm} by {bed_width_cm} cm. The soil shall be {fill_depth_cm} cm deep; "
            "how many liters in all?",
            "soil for a bed: {bed_length_cm} x {bed_width_cm} cm, depth {fill_depth_cm} cm",
            "{beds} garden beds, each {bed_length_cm} cm x {bed_width_cm} cm, {fill_depth_cm} cm of soil. Liters, "
            "please.",
        ),
        answers=("That takes {result} liters of soil.", "You need {result} liters."),
        names=("raised_bed_volume", "garden_soil_needed", "soil_for_beds"),
        parameters={"bed_length_cm": ("length",), "bed_width_cm": ("width",), "fill_depth_cm": ("depth", "soil_depth"),
                    "beds": ("number_of_beds",)},
    ),
    Task(
        soil_bags,
        arguments={"soil_liters": decimal(60, 1500), "bag_liters": one_of(20, 25, 40, 45, 50, 60, 70),
                   "reserve_percent": one_of(*((n, f"{n} percent") for n in (5, 10, 12, 15, 20)))},
        queries=(
            "How many {bag_liters} liter bags make {soil_liters} liters of soil?",
            "I want {soil_liters} liters of soil and {reserve_percent} more in reserve. How many bags of "
            "{bag_liters} l?",
            "bags of soil: {soil_liters} l wanted, {bag_liters} l per bag",
            "Soil settles, so add {reserve_percent}: {soil_liters} liters, sold in bags of {bag_liters}. Number of "
            "bags?",
        ),
        answers=("Buy {result} bags.", "You need {result} bags of soil."),
        names=("bags_to_buy", "count_soil_bags", "potting_bags"),
        parameters={"soil_liters": ("liters", "amount"), "bag_liters": ("bag_size",), "reserve_percent": ("extra",)},
    ),
    Task(
        scale_ingredient,
        arguments={"recipe_grams": whole(60, 900), "recipe_servings": one_of(2, 3, 4, 5, 6, 8),
                   "wanted_servings": whole(9, 40)},
        queries=(
            "A recipe for {recipe_servings} takes {recipe_grams} g. How many grams for {wanted_servings} people?",
            "Scale {recipe_grams} grams from {recipe_servings} to {wanted_servings} servings.",
            "We expect {wanted_servings} guests, and grandma's recipe ({recipe_grams} g of it) serves "
            "{recipe_servings}. What do I have to weigh?",
            "{recipe_grams} g / {recipe_servings} servings -> {wanted_servings} servings",
        ),
        answers=("You need {result} grams.", "Take {result} g."),
        names=("rescale_recipe", "adjust_recipe_amount", "grams_for_servings"),
        parameters={"recipe_grams": ("grams", "amount"), "recipe_servings": ("original_servings", "serves"),
                    "wanted_servings": ("new_servings", "target_servings")},
        different=("recipe_servings", "wanted_servings"),
    ),
    Task(
        cups_of,
        arguments={"ingredient_grams": whole(40, 1500),
                   "ingredient": one_of("flour", "sugar", "butter", "rice", "honey")},
        queries=(
            "How many cups are {ingredient_grams} grams of {ingredient}?",
            "{ingredient_grams} g {ingredient} in cups",
            "My scale is broken. Convert {ingredient_grams} grams of {ingredient} to cups, please.",
            "The package has {ingredient_grams} g of {ingredient} in it; how many cups would that fill?",
        ),
        answers=("That is {result} cups.", "It fills {result} cups."),
        names=("grams_to_cups", "cup_measure", "weight_in_cups"),
        parameters={"ingredient_grams": ("grams", "weight_g"), "ingredient": ("food", "what")},
    ),
    Task(
        household_share,
        arguments={"total_price": decimal(40, 2500, 2), "people": whole(2, 7),
                   "discount_percent": one_of(*((n, f"{n}%") for n in (2, 3, 5, 10, 15, 20)))},
        queries=(
            "{people} of us share something for {total_price}. What does each pay?",
            "We get {discount_percent} off the price of {total_price} and split the rest among {people}. How much "
            "each?",
            "share of each: total {total_price}, {people} people, discount {discount_percent}",
            "Split {total_price} evenly between {people} roommates, please.",
        ),
        answers=("Each pays {result}.", "Everybody's share is {result}."),
        names=("split_purchase", "price_per_head", "roommate_share"),
        parameters={"total_price": ("amount", "price"), "people": ("persons",), "discount_percent": ("rebate",)},
    ),
)  # fmt: skip

CHAINS = (
    Chain(
        net_wall_surface,
        paint_liters,
        feeds="surface",
        queries=(
            "How much paint does a room of {room_length} by {room_width} m with {ceiling_height} m high walls take?",
            "Walls: {room_length} m x {room_width} m, {ceiling_height} m high, {openings} m2 of windows. Liters of "
            "paint for {coats} coats?",
            "I paint all four walls, which are {ground}. The room is {room_length} m long, {room_width} m wide and "
            "{ceiling_height} m high. How many liters do I need?",
        ),
        between=("The walls have {given} square meters.", "That is {given} square meters to paint."),
        answers=("You need {result} liters for {given} square meters.", "It takes {result} liters of paint."),
    ),
    Chain(
        net_wall_surface,
        tiles_needed,
        feeds="tiled_surface",
        queries=(
            "I tile the four walls of a {room_length} by {room_width} m bathroom up to {ceiling_height} m, with square "
            "tiles of {tile_side_cm} cm. How many tiles?",
            "Tiles of {tile_side_cm} cm for all walls: {room_length} m x {room_width} m, height {ceiling_height} m, "
            "openings {openings} m2, waste {waste_percent}",
            "How many {tile_side_cm} cm tiles cover the walls of a room {room_length} m long, {room_width} m wide and "
            "{ceiling_height} m high?",
        ),
        between=("The walls measure {given} square meters.", "{given} square meters are to be tiled."),
        answers=("You need {result} tiles for {given} square meters.", "It takes {result} tiles."),
    ),
    Chain(
        paint_liters,
        paint_cans_cost,
        feeds="liters_needed",
        queries=(
            "What does the paint for {surface} square meters cost if a can of {can_liters} liters is {can_price}?",
            "{coats} coats on {surface} m2 of {ground} wall; cans hold {can_liters} l and cost {can_price}. Total?",
            "I am painting {surface} square meters in {coats} coats. The shop has {can_liters} liter cans for "
            "{can_price}. What will I spend?",
        ),
        between=("You need {given} liters.", "It takes {given} liters of paint; now the cans."),
        answers=("The cans for {given} liters cost {result}.", "You will spend {result}."),
    ),
    Chain(
        paint_cans_cost,
        household_share,
        feeds="total_price",
        queries=(
            "{people} of us share {liters_needed} liters of paint, in {can_liters} liter cans at {can_price}. Each "
            "pays?",
            "We need {liters_needed} l of paint. A can ({can_liters} l) costs {can_price}, we get {discount_percent} "
            "off, and {people} people split the sum. How much is it for each?",
            "paint {liters_needed} l; can {can_liters} l = {can_price}; split by {people}",
        ),
        between=("The cans cost {given}.", "All cans together cost {given}."),
        answers=("Each pays {result} of the {given}.", "It is {result} for each."),
    ),
    Chain(
        tiles_needed,
        tile_boxes_price,
        feeds="tile_count",
        queries=(
            "Square tiles of {tile_side_cm} cm come in boxes of {tiles_per_box} for {box_price}. What do I pay for "
            "{tiled_surface} square meters?",
            "{tiled_surface} m2 floor, tile side {tile_side_cm} cm, {waste_percent} waste, {tiles_per_box} tiles in a "
            "box at {box_price}: cost?",
            "How much do the tiles for {tiled_surface} square meters cost? They are {tile_side_cm} cm squares, "
            "{tiles_per_box} to the box, and a box is {box_price}.",
        ),
        between=("You need {given} tiles.", "That is {given} tiles."),
        answers=("The {given} tiles cost {result}.", "You pay {result}."),
    ),
    Chain(
        trip_fuel,
        fuel_share,
        feeds="fuel_liters",
        queries=(
            "What does the fuel for {distance_km} km cost at {liters_per_100km} l/100 km and {liter_price} a liter?",
            Query(
                "{riders} of us go on a round trip, {distance_km} km each way. The car takes {liters_per_100km} liters "
                "per 100 km and a liter costs {liter_price}. What does everyone pay?", fixed={"round_trip": True}),
            "fuel money each: {distance_km} km, {liters_per_100km} l/100 km, {liter_price} per liter, {riders} riders",
        ),
        between=("The trip takes {given} liters.", "{given} liters are burned."),
        answers=("For {given} liters it is {result}.", "It comes to {result}."),
    ),
    Chain(
        appliances_energy,
        electricity_bill,
        feeds="energy_kwh",
        queries=(
            "What do appliances of {watts} watts cost in {days} days, {hours_per_day} hours a day, at {cents_per_kwh} "
            "cents per kWh?",
            "{watts} W, on for {hours_per_day} h daily, {days} days, {cents_per_kwh} ct/kWh and a base fee of "
            "{base_fee}: the bill?",
            "My devices ({watts} watts) run {hours_per_day} hours a day. A kilowatt-hour is {cents_per_kwh} cents. "
            "What will I pay for {days} days?",
        ),
        between=("They use {given} kWh.", "That is {given} kilowatt-hours."),
        answers=("The {given} kWh cost {result}.", "You will pay {result}."),
    ),
    Chain(
        electricity_bill,
        household_share,
        feeds="total_price",
        queries=(
            "We used {energy_kwh} kWh at {cents_per_kwh} cents. What is the share of each of us {people}?",
            "{energy_kwh} kWh, {cents_per_kwh} ct each, base fee {base_fee}, split among {people} roommates",
            "Work out the bill for {energy_kwh} kWh at {cents_per_kwh} cents per kWh and split it by {people}, please.",
        ),
        between=("The bill is {given}.", "All of it costs {given}."),
        answers=("Everybody pays {result} of the {given}.", "Each share is {result}."),
    ),
    Chain(
        bed_soil_liters,
        soil_bags,
        feeds="soil_liters",
        queries=(
            "How many bags of {bag_liters} liters fill a bed of {bed_length_cm} by {bed_width_cm} cm, {fill_depth_cm} "
            "cm deep?",
            "{beds} beds, each {bed_length_cm} x {bed_width_cm} cm, soil {fill_depth_cm} cm deep, bags of {bag_liters} "
            "l, {reserve_percent} reserve. How many bags?",
            "I fill my raised bed ({bed_length_cm} cm long, {bed_width_cm} cm wide) with {fill_depth_cm} cm of soil. "
            "The shop sells {bag_liters} liter bags; how many do I buy?",
        ),
        between=("The soil makes {given} liters.", "That is {given} liters of soil."),
        answers=("You need {result} bags for {given} liters.", "Buy {result} bags."),
    ),
    Chain(
        scale_ingredient,
        cups_of,
        feeds="ingredient_grams",
        queries=(
            "My recipe takes {recipe_grams} g of {ingredient} for {recipe_servings}. How many cups for "
            "{wanted_servings}?",
            "{recipe_grams} grams of {ingredient} serve {recipe_servings}; cups of it for {wanted_servings} servings?",
            "Scale the {ingredient} from {recipe_servings} to {wanted_servings} servings ({recipe_grams} g in the "
            "recipe) and tell me the amount in cups.",
        ),
        between=("You need {given} grams.", "That is {given} g."),
        answers=("The {given} g are {result} cups.", "Take {result} cups."),
    ),
)  # fmt: skip
