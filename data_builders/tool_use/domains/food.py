"""Recipes, restaurants and groceries: apart from plain sums, stand-ins for services whose answers are made up."""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.dialogs.samplers import clock, date, decimal, first_name, one_of, percent, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice

# fmt: off
STOCK = ("leeks", "chickpeas", "rice", "feta", "spinach", "smoked tofu", "eggs", "cabbage", "lentils", "coconut milk",
         "tomatoes", "potatoes", "mushrooms", "peas", "stale bread", "carrots", "noodles", "pumpkin", "black beans")
DISHES = ("shepherd's pie", "mushroom risotto", "pad thai", "lamb tagine", "fish tacos", "beef goulash", "ramen",
          "ratatouille", "paella", "chicken katsu", "moussaka", "pierogi", "butter chicken", "bibimbap", "falafel wrap")
PRODUCTS = ("oat milk", "olive oil", "basmati rice", "cheddar", "rye bread", "peanut butter", "ground coffee",
            "tomato paste", "Greek yogurt", "dish soap", "frozen peas", "maple syrup", "tahini", "sour cream")
# fmt: on
KITCHENS = tuple(
    f"{a} {b}" for a in ("Copper", "Blue", "Little", "Golden", "Old") for b in ("Kettle", "Lantern", "Olive", "Garden")
)
STORES = ("Fairmart", "GreenBasket", "Nordmarkt", "Pantry & Co", "Corner Fresh", "Mercado Azul")


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


TASKS = (
    Task(
        dish_from_leftovers,
        arguments={"ingredients": several(one_of(*STOCK), 2, 4), "max_minutes": one_of(15, 20, 25, 30, 40, 60, 90)},
        queries=(
            "I still have {ingredients}. What could I cook?",
            "My fridge: {ingredients}. I've got {max_minutes} minutes at most. Any idea for dinner?",
            Query("We're vegan and need to use up {ingredients}. Suggest a dish.", {"vegan": True}),
            "dinner idea with {ingredients}, under {max_minutes} min",
            "It's the end of the month and all that is left is {ingredients}. Please find me a dish that uses them.",
        ),
        answers=("How about {result}?", "You could make {result}."),
        names=("use_up_ingredients", "suggest_dish", "recipe_idea_from_pantry"),
        parameters={"ingredients": ("items", "available"), "max_minutes": ("time_limit",), "vegan": ("vegan_only",)},
    ),
    Task(
        quantity_for_guests,
        arguments={"quantity": decimal(20, 900), "recipe_serves": one_of(2, 3, 4, 6), "guests": whole(5, 24)},
        queries=(
            "The recipe takes {quantity} grams of flour for {recipe_serves} people. How much for {guests}?",
            "I'm cooking for {guests}, but the recipe serves {recipe_serves}: {quantity} ml of stock. How much?",
            "scale {quantity} g from {recipe_serves} to {guests} servings",
            "Grandma's cake feeds {recipe_serves} with {quantity} g of butter; we'll be {guests}. What do I need?",
        ),
        answers=("You need {result}.", "Use {result} of it."),
        names=("adjust_recipe_amount", "convert_servings", "resize_recipe"),
        parameters={"quantity": ("amount",), "recipe_serves": ("base_servings",), "guests": ("target_servings",)},
    ),
    Task(
        reserve_table,
        arguments={"restaurant": one_of(*KITCHENS), "party_size": whole(2, 12), "day": date(), "time": clock()},
        queries=(
            "A table for {party_size} at {restaurant} on {day} at {time}, please.",
            Query("Could we sit outside at {restaurant}? {party_size} people, {day}, {time}.", {"outdoors": True}),
            "My parents' anniversary is on {day}. Get us a table at {restaurant}, {party_size} people, {time}.",
            "{restaurant}, {day} {time}, party of {party_size}. Reserve.",
        ),
        answers=("Reserved: table {table}, confirmation {confirmation}.", "You have table {table} ({confirmation})."),
        names=("book_dinner_table", "make_table_reservation", "table_request"),
        parameters={"restaurant": ("venue",), "party_size": ("people", "seats"), "day": ("date",), "time": ("at",)},
    ),
    Task(
        place_takeaway_order,
        arguments={"kitchen": one_of(*KITCHENS), "dishes": several(one_of(*DISHES), 1, 4), "name": first_name()},
        queries=(
            "Order {dishes} from {kitchen} to take away.",
            "Please get me {dishes} from {kitchen}, I'll pick it up. My name is {name}.",
            "We're too tired to cook. Order {dishes} at {kitchen}!",
            "takeaway / {kitchen} / {dishes} / for {name}",
        ),
        answers=("Ordered. The code is {order_code}, the total {total}.", "Order {order_code} comes to {total}."),
        names=("order_food_to_go", "submit_pickup_order", "takeout_order"),
        parameters={"kitchen": ("restaurant", "place"), "dishes": ("items", "meals"), "name": ("pickup_name",)},
    ),
    Task(
        takeaway_ready_in,
        arguments={"pickup_code": one_of(*(f"T-{n}" for n in range(1013, 9990, 137)))},
        queries=(
            "How long until order {pickup_code} is ready?",
            "I ordered food, code {pickup_code}. When can I come and get it?",
            "Status of {pickup_code}? I'm standing outside already.",
            "Minutes left for takeaway {pickup_code}, please.",
        ),
        answers=("It will be ready in {result} minutes.", "About {result} more minutes."),
        names=("pickup_wait_time", "order_eta_minutes", "check_order_progress"),
        parameters={"pickup_code": ("order_id", "code")},
    ),
    Task(
        dish_contains,
        arguments={"dish": one_of(*DISHES), "allergen": one_of("gluten", "nuts", "dairy", "eggs", "shellfish", "soy")},
        queries=(
            "Is there usually {allergen} in {dish}?",
            "My son must not eat {allergen}. Is {dish} a problem?",
            "{dish}: check for {allergen}",
            "A guest told me to avoid {allergen}, and I planned {dish}. Does it contain any?",
        ),
        answers=("Contains it: {result}.", "The allergen check says {result}."),
        names=("check_allergen", "has_allergen", "allergen_in_dish"),
        parameters={"dish": ("meal", "food"), "allergen": ("substance",)},
    ),
    Task(
        oven_setting,
        arguments={"degrees": one_of(*range(150, 260, 10), 325, 350, 375, 425), "scale": one_of("C", "F")},
        queries=(
            "The recipe says {degrees} degrees {scale}. What is that on the other scale?",
            "Oven: {degrees} {scale}, what do I set on mine with the other unit?",
            Query("I've a fan oven. What do I set instead of {degrees} {scale}, in the other scale?", {"fan": True}),
            "convert baking temperature {degrees} {scale}",
        ),
        answers=("Set the oven to {result} degrees.", "That is {result} degrees."),
        names=("convert_baking_temperature", "oven_degrees", "baking_temp"),
        parameters={"degrees": ("temperature", "heat"), "scale": ("unit",), "fan": ("fan_oven", "convection")},
        slips={"scale": (("Celsius", "C"), ("Fahrenheit", "F"), ("centigrade", "C"))},
    ),
    Task(
        grocery_price,
        arguments={"product": one_of(*PRODUCTS), "store": one_of(*STORES), "packs": whole(2, 12)},
        queries=(
            "What does {product} cost at {store}?",
            "How much would {packs} packs of {product} be at {store}?",
            "I'm writing my shopping list for {store}: {packs} packs of {product}. What will I pay for them?",
            "price check: {product}, {store}",
        ),
        answers=("That costs {result}.", "The price is {result}."),
        names=("shelf_price", "supermarket_price", "price_of_product"),
        parameters={"product": ("item", "article"), "store": ("shop", "supermarket"), "packs": ("quantity", "count")},
    ),
    Task(
        pair_drink,
        arguments={
            "meal": one_of(*DISHES),
            "kind": one_of(("red_wine", "red wine"), "beer", ("alcohol_free", "alcohol-free drink")),
        },
        queries=(
            "We're having {meal} tonight. What should we drink with it?",
            "Which {kind} goes well with {meal}?",
            Query("Nobody drinks tonight. Something without alcohol to go with {meal}?", {"kind": "alcohol_free"}),
            "{meal} + {kind}: recommendation please",
        ),
        answers=("I'd serve {result}.", "Try {result} with it."),
        names=("drink_recommendation", "beverage_for_meal", "suggest_pairing"),
        parameters={"meal": ("dish", "food"), "kind": ("drink_type", "category")},
    ),
    Task(
        opened_until,
        arguments={"item": one_of(*PRODUCTS), "opened_on": date()},
        queries=(
            "I opened the {item} on {opened_on}. Until when can I use it?",
            Query("I opened the {item} on {opened_on}, then froze it. Good until?", {"in_freezer": True}),
            "{item}, opened {opened_on}. Use by?",
            "Found some {item} at the back of the fridge, marked {opened_on}. What's the last day to eat it?",
        ),
        answers=("Use it by {result}.", "It keeps until {result}."),
        names=("use_by_date", "shelf_life_end", "expiry_after_opening"),
        parameters={"item": ("product", "food"), "opened_on": ("opening_date",), "in_freezer": ("frozen",)},
    ),
    Task(
        bill_per_person,
        arguments={"bill": decimal(30, 420, 2), "diners": whole(2, 11), "tip_percent": percent(3, 25, 0)},
        queries=(
            "Our bill is {bill} and we're {diners} people. How much does everyone pay?",
            "Split {bill} between {diners} friends with a {tip_percent} tip.",
            "bill {bill}, tip {tip_percent}, {diners} ways",
            "Lovely evening! The bill says {bill}. With {diners} of us tipping {tip_percent}, what do I owe?",
        ),
        answers=("Everyone pays {result}.", "It comes to {result} each."),
        names=("split_restaurant_bill", "share_with_tip", "each_pays"),
        parameters={"bill": ("amount", "subtotal"), "diners": ("people", "guests"), "tip_percent": ("tip",)},
    ),
    Task(
        roasting_minutes,
        arguments={"kilograms": decimal(0.8, 5), "meat": one_of("veal", "beef", "pork", "lamb")},
        queries=(
            "How long must {kilograms} kg of {meat} roast?",
            Query("We like it pink. Roasting time for {kilograms} kilos of {meat}?", {"well_done": False}),
            "Sunday roast: {meat}, {kilograms} kg. Minutes?",
            "The butcher gave me {kilograms} kg of {meat}. How many minutes does it need in the oven?",
        ),
        answers=("Roast it for {result} minutes.", "It needs {result} minutes in the oven."),
        names=("roast_time", "oven_time_for_meat", "meat_cooking_minutes"),
        parameters={"kilograms": ("weight", "weight_kg"), "meat": ("meat_type",), "well_done": ("fully_cooked",)},
    ),
    Task(
        baking_substitute,
        arguments={
            "ingredient": one_of("butter", "honey", "buttermilk", "egg white", "condensed milk", "heavy cream", "ghee"),
            "grams": whole(20, 400),
            "avoid": several(one_of("applesauce", "oat cream", "mashed banana", "rice syrup"), 1, 2),
        },
        queries=(
            "I've run out of {ingredient} and the cake needs {grams} g. What can I take instead, other than {avoid}?",
            "Substitute for {grams} grams of {ingredient}, but no {avoid}",
            "My daughter can't stand {avoid}. What else replaces {grams} g of {ingredient}?",
            "What could I bake with in place of {grams} g {ingredient}? I have no {avoid} either.",
        ),
        answers=("Take {result} instead.", "You can use {result}."),
        names=("replace_ingredient", "find_substitute", "swap_ingredient"),
        parameters={"ingredient": ("missing",), "grams": ("amount_g", "weight"), "avoid": ("exclude",)},
    ),
)

CHAINS = (
    Chain(
        dish_from_leftovers,
        pair_drink,
        feeds="meal",
        queries=(
            "What can I cook from {ingredients}, and which {kind} goes with it?",
            "I have {ingredients} and {max_minutes} minutes. Find a dish and a drink for it.",
            "Something to eat from {ingredients} plus a fitting {kind}, please.",
        ),
        between=("{given} it is. Now the drink.", "You could cook {given}; let me look for a drink."),
        answers=("Make {given} and drink {result} with it.", "With {given} I'd serve {result}."),
    ),
    Chain(
        dish_from_leftovers,
        dish_contains,
        feeds="dish",
        queries=(
            "Suggest a dish from {ingredients} and check it for {allergen}.",
            "I have {ingredients}. What could I make, and would it contain {allergen}?",
            "dish idea: {ingredients}, ready in {max_minutes} min. My guest can't have {allergen}, so check that too",
        ),
        between=("An idea: {given}. Now the allergen.", "{given} would work. I check it."),
        answers=("My idea is {given}. Does it have that allergen? {result}.", "{given}; allergen found: {result}."),
    ),
    Chain(
        place_takeaway_order,
        takeaway_ready_in,
        feeds="pickup_code",
        takes="order_code",
        queries=(
            "Order {dishes} at {kitchen} and tell me when I can pick it up.",
            "Get {dishes} from {kitchen} for {name}. How many minutes will it take?",
            "takeaway from {kitchen}: {dishes}. And the waiting time?",
        ),
        between=("Ordered under {given}. Now the waiting time.", "The order has the code {given}."),
        answers=("Order {given} is ready in {result} minutes.", "Pick up {given} in {result} minutes."),
    ),
    Chain(
        place_takeaway_order,
        bill_per_person,
        feeds="bill",
        takes="total",
        queries=(
            "Order {dishes} from {kitchen}; {diners} of us share the cost with a {tip_percent} tip. What is it each?",
            "Please order {dishes} at {kitchen} and split the bill between {diners}.",
            "{diners} hungry people, {kitchen}, {dishes}. Order it and say what each pays.",
        ),
        between=("The order comes to {given}.", "Ordered for {given}. Let me split that."),
        answers=("Each pays {result}.", "The total is {given}, so {result} per person."),
    ),
    Chain(
        grocery_price,
        bill_per_person,
        feeds="bill",
        queries=(
            "{packs} packs of {product} from {store}, for {diners} flatmates, {tip_percent} tip: each pays?",
            "Buy {product} at {store} for {diners} of us, tip {tip_percent}: what is each one's share?",
            "What do {diners} people pay each for {packs} packs of {product} at {store} with a tip of {tip_percent}?",
        ),
        between=("It costs {given} at the store.", "The price is {given}. Now your shares."),
        answers=("That makes {result} each.", "Of {given} plus tip, everyone pays {result}."),
    ),
)
