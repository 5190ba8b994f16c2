"""Household and workshop: paint, tiles, fuel, recipes, garden beds and electricity."""

from __future__ import annotations

import math
from typing import Literal


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
