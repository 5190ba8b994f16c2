"""Nutrition, training, scores and players' statistics; what foods contain is a stand-in for a service and made up."""

from __future__ import annotations

import math
import random
from typing import Literal

from data_builders.tool_use.dialogs.samplers import (
    FIRST_NAMES,
    Sampler,
    Value,
    decimal,
    one_of,
    percent,
    person,
    several,
    whole,
)
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up


def target_pulse(age: int, intensity: int, resting_pulse: int = 60) -> int:
    """Heartbeats per minute to train at, after Karvonen.

    Args:
        age: Age in years.
        intensity: Percent of the heart rate reserve, for instance 70.
        resting_pulse: Pulse at rest. Default is 60.
    """
    return round((220 - age - resting_pulse) * intensity / 100 + resting_pulse)


def pace_per_km(distance_km: float, minutes: float) -> float:
    """Average pace of a run in minutes per kilometer.

    Args:
        distance_km: Length of the run.
        minutes: Time it took.
    """
    if distance_km <= 0:
        raise ValueError("distance_km must be above 0")
    return round(minutes / distance_km, 3)


def projected_finish(pace: float, race: str) -> str:
    """The finishing time of a race run at an even pace.

    Args:
        pace: Minutes per kilometer.
        race: Which race it is.
    """
    if race not in _RACES:
        raise ValueError(f"race {race!r} is not known; use one of {', '.join(_RACES)}")
    seconds = round(pace * _RACES[race] * 60)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def macro_grams(daily_kcal: int, protein_percent: float, fat_percent: float) -> dict:
    """Grams of protein, fat and carbohydrate in a day's food; carbohydrate is the rest.

    Args:
        daily_kcal: Energy of the day in kcal.
        protein_percent: Percent of the energy from protein.
        fat_percent: Percent of the energy from fat.
    """
    if protein_percent + fat_percent > 100:
        raise ValueError("protein_percent and fat_percent must not exceed 100 together")
    carbs = 100 - protein_percent - fat_percent
    parts = {"protein_g": protein_percent / 4, "fat_g": fat_percent / 9, "carbs_g": carbs / 4}
    return {name: round(daily_kcal * share / 100, 1) for name, share in parts.items()}


def portion_energy(dish: str, portion_grams: float, homemade: bool = False) -> int:
    """Looks up the energy of a portion in kcal.

    Args:
        dish: Food or dish, e.g. "lentil soup".
        portion_grams: Size of the portion in grams.
        homemade: Whether it was cooked at home rather than bought.
    """
    return round(made_up(40, 380, "kcal", dish.lower(), homemade) * portion_grams / 100)


def minutes_to_burn(
    energy_kcal: float, activity: Literal["walking", "cycling", "rowing", "swimming"], body_kg: float = 70
) -> int:
    """Minutes of an activity that use up an amount of energy.

    Args:
        energy_kcal: Energy in kcal.
        activity: What is done.
        body_kg: Body weight in kg. Default is 70.
    """
    met = {"walking": 3.5, "cycling": 7.5, "rowing": 7.0, "swimming": 6.0}[activity]
    return math.ceil(round(energy_kcal / (met * body_kg) * 60, 6))


def goalkeeper_record(keeper: str, shots_faced: int, goals_conceded: int) -> dict:
    """Saves and save percentage of a goalkeeper.

    Args:
        keeper: Name of the goalkeeper.
        shots_faced: Shots on goal.
        goals_conceded: How many of them went in.
    """
    if not 0 <= goals_conceded <= shots_faced or not shots_faced:
        raise ValueError("shots_faced must be above 0, and goals_conceded at most as many")
    saves = shots_faced - goals_conceded
    return {"keeper": keeper, "saves": saves, "save_percent": round(100 * saves / shots_faced, 1)}


def lifting_max(lifted_kg: float, repetitions: int, formula: Literal["epley", "brzycki"] = "epley") -> float:
    """Estimates the weight that can be lifted once.

    Args:
        lifted_kg: Weight of the set in kg.
        repetitions: Repetitions in the set, 1 to 12.
        formula: Formula of the estimate.
    """
    if not 1 <= repetitions <= 12:
        raise ValueError("repetitions must be 1 to 12")
    return round(lifted_kg * ((1 + repetitions / 30) if formula == "epley" else 36 / (37 - repetitions)), 1)


def working_weight(single_max_kg: float, percent_of_max: int, plate_step: float = 2.5) -> float:
    """Weight for a training set, rounded down to what the plates allow.

    Args:
        single_max_kg: Weight that can be lifted once, in kg.
        percent_of_max: Percent of it to train with.
        plate_step: Smallest step of the plates in kg. Default is 2.5.
    """
    if plate_step <= 0:
        raise ValueError("plate_step must be above 0")
    return round(math.floor(single_max_kg * percent_of_max / 100 / plate_step + 1e-9) * plate_step, 2)


def rating_after_game(
    rating: float, opponent_rating: float, outcome: Literal["win", "draw", "loss"], factor: int = 20
) -> float:
    """New Elo rating of a player after one game.

    Args:
        rating: Rating before the game.
        opponent_rating: Rating of the other player.
        outcome: How the game ended for the player.
        factor: The K factor. Default is 20.
    """
    expected = 1 / (1 + 10 ** ((opponent_rating - rating) / 400))
    return round(rating + factor * ({"win": 1, "draw": 0.5, "loss": 0}[outcome] - expected), 1)


def top_of_scoreboard(scores: dict[str, float], lowest_wins: bool = False) -> str:
    """The name that leads a scoreboard.

    Args:
        scores: Score by name, such as {"Ana": 12, "Bo": 9}.
        lowest_wins: Whether the lowest score leads, as in golf.
    """
    if not scores:
        raise ValueError("scores must hold at least one name")
    return sorted(scores, key=lambda name: scores[name])[0 if lowest_wins else -1]


def season_summary(athlete: str, points: list[int]) -> dict:
    """Average and best game of an athlete's season.

    Args:
        athlete: Name of the athlete.
        points: Points of each game.
    """
    if not points:
        raise ValueError("points must hold at least one game")
    return {"athlete": athlete, "average": round(sum(points) / len(points), 2), "best": max(points)}


_RACES = {"5k": 5.0, "10k": 10.0, "half": 21.0975, "marathon": 42.195}
_DISHES = ("lentil soup", "cheese toast", "fried rice", "apple crumble", "mushroom risotto", "falafel",
           "pancakes", "vegetable curry", "granola", "ramen", "carrot cake", "chili", "pea stew")  # fmt: skip


def _scores() -> Sampler:
    def sample(rng: random.Random) -> Value:
        names, numbers = rng.sample(FIRST_NAMES, 4)[: rng.randint(3, 4)], rng.sample(range(3, 99), 4)
        found = dict(zip(names, numbers, strict=False))
        return Value(found, ", ".join(f"{name} {score}" for name, score in found.items()))

    return sample


TASKS = (
    Task(
        target_pulse,
        arguments={"age": whole(16, 80), "intensity": percent(50, 85, 0), "resting_pulse": whole(45, 78)},
        queries=(
            "I'm {age}. At what pulse should I train for {intensity} intensity?",
            "Karvonen: age {age}, resting pulse {resting_pulse}, intensity {intensity}",
            "My coach wants me at {intensity} today. I am {age} years old and have {resting_pulse} beats at rest. "
            "What does my watch have to show?",
            "Training pulse at {intensity} for a {age}-year-old, please.",
        ),
        answers=("Train at {result} beats per minute.", "Aim for a pulse of {result}."),
        names=("karvonen_pulse", "training_heartbeat", "exercise_pulse"),
        parameters={"age": ("years",), "intensity": ("effort_percent", "effort"), "resting_pulse": ("pulse_at_rest",)},
    ),
    Task(
        pace_per_km,
        arguments={"distance_km": decimal(6, 12), "minutes": decimal(36, 75)},
        queries=(
            "I ran {distance_km} km in {minutes} minutes. What was my pace?",
            "pace: {distance_km} km / {minutes} min",
            "It took me {minutes} minutes to jog around the lake, which is {distance_km} kilometers. How many minutes "
            "per kilometer is that?",
            "Please give me the average pace of a run of {distance_km} kilometers that lasted {minutes} minutes.",
        ),
        answers=("Your pace was {result} minutes per kilometer.", "That is {result} min/km."),
        names=("running_pace", "average_pace", "minutes_per_km"),
        parameters={"distance_km": ("distance", "kilometers"), "minutes": ("duration", "time_min")},
    ),
    Task(
        projected_finish,
        arguments={"pace": decimal(3.5, 8, 2), "race": one_of(*_RACES)},
        queries=(
            "If I run {pace} minutes per kilometer, when do I finish a {race}?",
            "{race} at {pace} min/km: finishing time?",
            "My friend keeps a pace of {pace} minutes a kilometer. What time can be expected in the {race} on Sunday?",
            "What is the time for a {race} run evenly at {pace} min per km?",
        ),
        answers=("You finish in {result}.", "The time would be {result}."),
        names=("race_time", "finish_time_for", "predict_finish"),
        parameters={"pace": ("min_per_km", "speed"), "race": ("event", "distance")},
        slips={"race": (("half marathon", "half"), ("full marathon", "marathon"), ("5 km", "5k"), ("10 km", "10k"))},
    ),
    Task(
        macro_grams,
        arguments={"daily_kcal": whole(1400, 3600), "protein_percent": whole(12, 40), "fat_percent": whole(15, 45)},
        queries=(
            "I eat {daily_kcal} kcal a day, {protein_percent}% from protein and {fat_percent}% from fat. How many "
            "grams is that?",
            "macros: {daily_kcal} kcal, protein {protein_percent} percent, fat {fat_percent} percent",
            "Split {daily_kcal} kcal so that protein gives {protein_percent}% and fat {fat_percent}%, the rest being "
            "carbohydrate.",
            "My plan says {protein_percent}% protein, {fat_percent}% fat, {daily_kcal} kcal. What do I weigh out?",
        ),
        answers=(
            "Protein {protein_g} g, fat {fat_g} g, carbs {carbs_g} g.",
            "{protein_g} g, {fat_g} g and {carbs_g} g.",
        ),
        names=("split_macros", "nutrient_grams", "macro_plan"),
        parameters={"daily_kcal": ("calories", "energy"), "protein_percent": ("protein",), "fat_percent": ("fat",)},
    ),
    Task(
        portion_energy,
        arguments={"dish": one_of(*_DISHES), "portion_grams": whole(60, 600)},
        queries=(
            "How many kcal are in {portion_grams} grams of {dish}?",
            Query(
                "I cooked {dish} myself and had {portion_grams} g of it. What energy is that?", fixed={"homemade": True}
            ),
            "{dish}, {portion_grams} g: energy?",
            Query("Please look up {portion_grams} grams of homemade {dish}.", fixed={"homemade": True}),
            Query("Energy of {portion_grams} g of {dish} from the shop, not homemade?", fixed={"homemade": False}),
        ),
        answers=("It has {result} kcal.", "That portion is {result} kcal."),
        names=("food_energy", "kcal_lookup", "portion_calories"),
        parameters={"dish": ("food", "meal"), "portion_grams": ("grams", "weight"), "homemade": ("home_cooked",)},
    ),
    Task(
        minutes_to_burn,
        arguments={
            "energy_kcal": whole(60, 900),
            "activity": one_of("walking", "cycling", "rowing", "swimming"),
            "body_kg": whole(48, 110),
        },
        queries=(
            "How long do I have to go {activity} to burn {energy_kcal} kcal?",
            "{energy_kcal} kcal by {activity}, body weight {body_kg} kg: minutes?",
            "I weigh {body_kg} kilograms and want to get rid of {energy_kcal} kcal by {activity}. How many minutes "
            "will that be?",
            "Minutes of {activity} for {energy_kcal} kcal, please.",
        ),
        answers=("It takes {result} minutes.", "{result} minutes will do."),
        names=("burn_time", "exercise_minutes", "time_to_burn"),
        parameters={"energy_kcal": ("calories", "kcal"), "activity": ("sport", "exercise"), "body_kg": ("weight",)},
    ),
    Task(
        goalkeeper_record,
        arguments={"keeper": person(), "shots_faced": whole(20, 140), "goals_conceded": whole(2, 19)},
        queries=(
            "{keeper} faced {shots_faced} shots and let in {goals_conceded}. What is the save percentage?",
            "keeper {keeper}, shots {shots_faced}, conceded {goals_conceded}",
            "How many saves did {keeper} make with {shots_faced} shots on goal and {goals_conceded} goals against?",
            "For the club paper: {goals_conceded} of {shots_faced} shots got past {keeper}. Give me the record, "
            "please.",
        ),
        answers=("{keeper} made {saves} saves, {save_percent}%.", "{saves} saves, or {save_percent} percent."),
        names=("save_rate", "goalie_stats", "keeper_statistics"),
        parameters={"keeper": ("goalkeeper", "name"), "shots_faced": ("shots",), "goals_conceded": ("goals_against",)},
    ),
    Task(
        lifting_max,
        arguments={
            "lifted_kg": decimal(30, 180),
            "repetitions": whole(2, 10),
            "formula": one_of(("epley", "Epley"), ("brzycki", "Brzycki")),
        },
        queries=(
            "I lift {lifted_kg} kg {repetitions} times. How much could I lift once?",
            "{formula}: {lifted_kg} kg x {repetitions}",
            "Estimate my one-time maximum after {repetitions} repetitions with {lifted_kg} kg, using the {formula} "
            "formula.",
            "My sister did {repetitions} squats with {lifted_kg} kilograms on her back. What would be her maximum for "
            "a single one?",
        ),
        answers=("About {result} kg.", "The estimate is {result} kg."),
        names=("estimate_single_lift", "rep_max_estimate", "max_lift"),
        parameters={"lifted_kg": ("weight", "load"), "repetitions": ("reps",), "formula": ("method",)},
    ),
    Task(
        working_weight,
        arguments={"single_max_kg": decimal(40, 220), "percent_of_max": whole(50, 95), "plate_step": one_of(1, 2, 5)},
        queries=(
            "My maximum is {single_max_kg} kg. What do I load for {percent_of_max} percent?",
            "max {single_max_kg} kg, {percent_of_max}%, plates in steps of {plate_step} kg",
            "The plan says {percent_of_max}% of my best lift, which is {single_max_kg} kg, and our gym's plates go in "
            "steps of {plate_step} kg. How heavy?",
            "Work out {percent_of_max}% of a {single_max_kg} kg maximum for my next set.",
        ),
        answers=("Load {result} kg.", "Train with {result} kg."),
        names=("training_load", "set_weight", "bar_weight"),
        parameters={"single_max_kg": ("maximum",), "percent_of_max": ("percentage",), "plate_step": ("step",)},
    ),
    Task(
        rating_after_game,
        arguments={
            "rating": whole(900, 2400),
            "opponent_rating": whole(900, 2400),
            "outcome": one_of("win", "draw", "loss"),
            "factor": one_of(10, 24, 32, 40),
        },
        queries=(
            "My rating is {rating}, my opponent's {opponent_rating}, and the game was a {outcome} for me. What is my "
            "new rating?",
            "Elo {rating} vs {opponent_rating}, {outcome}, K={factor}",
            "Chess club: player at {rating} meets one at {opponent_rating}; result for the first: {outcome}. New "
            "rating?",
            "With a K factor of {factor}, where do I land from {rating} after a {outcome} against {opponent_rating}?",
        ),
        answers=("The new rating is {result}.", "It becomes {result}."),
        names=("update_elo", "new_rating", "elo_after_match"),
        parameters={"rating": ("own_rating",), "opponent_rating": ("rival",), "outcome": ("ended",), "factor": ("k",)},
    ),
    Task(
        top_of_scoreboard,
        arguments={"scores": _scores()},
        queries=(
            "Who leads? {scores}",
            Query("Minigolf, fewest strokes win: {scores}. Who is first?", fixed={"lowest_wins": True}),
            "Our quiz ended like this: {scores}. Name the winner, please.",
            Query("We want the lowest score on top. Scores: {scores}", fixed={"lowest_wins": True}),
        ),
        answers=("{result} leads.", "First is {result}."),
        names=("leader_of", "find_winner", "best_score_name"),
        parameters={"scores": ("results", "points"), "lowest_wins": ("fewest_first",)},
    ),
    Task(
        season_summary,
        arguments={"athlete": person(), "points": several(whole(0, 45), 3, 6)},
        queries=(
            "{athlete} scored {points} points in the games so far. What is the average, and the best game?",
            "season of {athlete}: {points}",
            "Please sum up the season of {athlete}, whose games brought {points} points.",
            "I write about {athlete}. These are the points game by game: {points}. Average?",
        ),
        answers=("{athlete} averages {average}; the best game had {best}.", "Average {average}, best {best}."),
        names=("player_season", "game_average", "summarize_games"),
        parameters={"athlete": ("player", "name"), "points": ("game_points", "scores")},
    ),
)

CHAINS = (
    Chain(
        pace_per_km,
        projected_finish,
        feeds="pace",
        queries=(
            "I ran {distance_km} km in {minutes} minutes. At that pace, what is my time for a {race}?",
            "{distance_km} km in {minutes} min -> {race}?",
            "Take the pace of my last run ({distance_km} km, {minutes} minutes) and project a {race}.",
        ),
        between=("Your pace is {given}.", "That is {given} minutes per kilometer."),
        answers=("You would finish in {result}.", "At {given} min/km it takes {result}."),
    ),
    Chain(
        portion_energy,
        minutes_to_burn,
        feeds="energy_kcal",
        queries=(
            "I ate {portion_grams} g of {dish}. How long must I go {activity} to burn it?",
            "{dish}, {portion_grams} grams, burnt by {activity} at {body_kg} kg: minutes?",
            "How many minutes of {activity} make up for {portion_grams} grams of {dish}?",
        ),
        between=("The portion has {given} kcal.", "That is {given} kcal. Now the minutes."),
        answers=("It takes {result} minutes.", "{result} minutes for {given} kcal."),
    ),
    Chain(
        lifting_max,
        working_weight,
        feeds="single_max_kg",
        queries=(
            "I lift {lifted_kg} kg {repetitions} times. What is {percent_of_max}% of my maximum, for the bar?",
            "{repetitions} x {lifted_kg} kg; next set at {percent_of_max} percent of max. Load?",
            "Estimate my maximum from {repetitions} reps with {lifted_kg} kg ({formula}) and load {percent_of_max}% "
            "of it.",
        ),
        between=("Your maximum is about {given} kg.", "The estimate is {given} kg."),
        answers=("Load {result} kg.", "With a maximum of {given} kg you load {result} kg."),
    ),
    Chain(
        top_of_scoreboard,
        goalkeeper_record,
        feeds="keeper",
        queries=(
            "Votes for best keeper: {scores}. The winner faced {shots_faced} shots and conceded {goals_conceded}. "
            "Record?",
            "{scores}. Whoever has most is in goal: {shots_faced} shots, {goals_conceded} let in. Save percentage?",
            "Find the leader of {scores}, then the saves from {shots_faced} shots and {goals_conceded} goals.",
        ),
        between=("{given} leads.", "The first is {given}. Now the record."),
        answers=("{given} made {saves} saves, {save_percent}%.", "{saves} saves for {keeper}."),
    ),
    Chain(
        top_of_scoreboard,
        season_summary,
        feeds="athlete",
        queries=(
            "Total points: {scores}. The leader's last games brought {points}. What is the average?",
            "Who is on top of {scores}? Sum up that season: {points}.",
            "{scores} - take the first of them, whose games were {points}, and give me the summary.",
        ),
        between=("{given} is on top.", "The leader is {given}."),
        answers=("{athlete} averages {average}.", "{given}: average {average}, best {best}."),
    ),
)
