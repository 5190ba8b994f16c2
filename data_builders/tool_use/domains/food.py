"""Recipes, restaurants and groceries: apart from plain sums, stand-ins for services whose answers are made up."""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice

# fmt: off
# fmt: on


def dish_from_leftovers(ingredients: list[str], max_minutes: int = 45, vegan: bool = False) -> str:
    """Suggest one dish that uses up what is in the kitchen.

    Args:
        ingredients: What is there, such as ["rice", "eggs"].
        max_minutes: Longest cooking time in minutes. Default is 45.
        vegan: Whether the dish must be vegan.
    """
    kinds = ("stew", "stir-fry", "soup") if max_minutes < 30 else ("gratin", "curry", "stew", "casserole")
    return f"{'vegan ' if vegan else ''}{ingredients[0]} {made_up_choice(kinds, *ingredients)}"


def quantity_for_guests(quantity: float, recipe_serves: int, guests: int) -> float:
    """Adapt the quantity of an ingredient to another number of people.

    Args:
        quantity: Quantity in the recipe, in any unit.
        recipe_serves: Number of people the recipe is meant for.
        guests: Number of people who will eat.
    """
    return round(quantity * guests / recipe_serves, 2)


def reserve_table(restaurant: str, party_size: int, day: str, time: str, outdoors: bool = False) -> dict:
    """Reserve a table in a restaurant.

    Args:
        restaurant: Name of the restaurant.
        party_size: How many people come.
        day: Day of the visit (YYYY-MM-DD).
        time: Time of arrival, HH:MM, 24-hour clock.
        outdoors: True for a table outside.
    """
    table = f"{'T' if outdoors else 'R'}{made_up(1, 30, restaurant, day, time)}"
    return {"table": table, "confirmation": made_up(10000, 99999, restaurant, party_size, day, time)}


def place_takeaway_order(kitchen: str, dishes: list[str], name: str = "guest") -> dict:
    """Order dishes to take away.

    Args:
        kitchen: The place that cooks.
        dishes: Dishes, one entry per portion.
        name: Name under which the order is picked up.
    """
    total = sum(made_up(65, 190, kitchen, dish) for dish in dishes) / 10
    return {"order_code": f"T-{made_up(1000, 9999, kitchen, *dishes, name)}", "total": round(total, 2)}


def takeaway_ready_in(pickup_code: str) -> int:
    """Minutes until a takeaway order can be picked up.

    Args:
        pickup_code: Code of the order, such as T-4821.
    """
    return made_up(4, 50, pickup_code)


def dish_contains(dish: str, allergen: Literal["gluten", "nuts", "dairy", "eggs", "shellfish", "soy"]) -> bool:
    """Tell whether a dish usually has an allergen in it.

    Args:
        dish: Name of the dish.
        allergen: The substance to be avoided.
    """
    return made_up(0, 2, dish, allergen) == 0


def oven_setting(degrees: float, scale: str, fan: bool = False) -> int:
    """Convert an oven temperature to the other scale, rounded to 5 degrees.

    Args:
        degrees: Temperature that the recipe gives.
        scale: Scale of that temperature: C or F. The result is in the other one.
        fan: Set to true for a fan oven, which runs 20 degrees Celsius cooler.
    """
    if scale not in ("C", "F"):
        raise ValueError(f"scale {scale!r} is not accepted; give C or F")
    celsius = (degrees if scale == "C" else (degrees - 32) / 1.8) - (20 if fan else 0)
    return 5 * round((celsius * 1.8 + 32 if scale == "C" else celsius) / 5)


def grocery_price(product: str, store: str, packs: int = 1) -> float:
    """Shelf price of a product in a grocery store.

    Args:
        product: What to buy.
        store: Name of the store.
        packs: Number of packs; 1 unless given.
    """
    return round(made_up(89, 949, product, store) / 100 * packs, 2)


def pair_drink(meal: str, kind: Literal["red_wine", "white_wine", "beer", "alcohol_free"] = "white_wine") -> str:
    """Recommend a drink to go with a meal.

    Args:
        meal: The dish on the table.
        kind: Kind of drink wanted.
    """
    drinks = {
        "red_wine": ("Rioja", "Merlot", "Barbera"),
        "white_wine": ("Riesling", "Chenin Blanc", "Verdejo"),
        "beer": ("pale ale", "pilsner", "stout"),
        "alcohol_free": ("ginger lemonade", "iced mint tea", "pear spritzer"),
    }
    return made_up_choice(drinks[kind], meal, kind)


def opened_until(item: str, opened_on: str, in_freezer: bool = False) -> str:
    """Last day on which an opened product should be used.

    Args:
        item: The product.
        opened_on: Day on which it was opened, as YYYY-MM-DD.
        in_freezer: Whether it is kept in the freezer.
    """
    return str(Date.fromisoformat(opened_on) + timedelta(days=made_up(3, 21, item) * (10 if in_freezer else 1)))


def bill_per_person(bill: float, diners: int, tip_percent: float = 10) -> float:
    """What each guest pays when a bill and its tip are split evenly.

    Args:
        bill: Amount on the bill, without tip.
        diners: Number of people who pay.
        tip_percent: Tip in percent of the bill. Default is 10.
    """
    return round(bill * (1 + tip_percent / 100) / diners, 2)


def roasting_minutes(kilograms: float, meat: Literal["veal", "beef", "pork", "lamb"], well_done: bool = True) -> int:
    """Roasting time by weight.

    Args:
        kilograms: Weight of the piece in kilograms.
        meat: What is roasted.
        well_done: False for a pink center.
    """
    minutes = {"veal": 45, "beef": 50, "pork": 60, "lamb": 55}[meat] * kilograms + 20
    return round(minutes * (1 if well_done else 0.75))


def baking_substitute(ingredient: str, grams: float, avoid: list[str]) -> str:
    """Find something to use instead of an ingredient, with its amount.

    Args:
        ingredient: What is missing.
        grams: How much of it the recipe wants, in grams.
        avoid: Substitutes that are not wanted.
    """
    known = ("applesauce", "oat cream", "mashed banana", "rice syrup", "coconut cream")
    options = [option for option in known if option not in avoid]
    return f"{round(grams * made_up(6, 14, ingredient) / 10)} g of {made_up_choice(options, ingredient)}"
