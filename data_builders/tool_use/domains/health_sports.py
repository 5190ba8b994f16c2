"""Nutrition, training, scores and players' statistics; what foods contain is a stand-in for a service and made up."""

from __future__ import annotations

import math
import random
from typing import Literal

from data_builders.tool_use.made_up import made_up
from data_builders.tool_use.names import FIRST_NAMES


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


def _scores(rng: random.Random) -> tuple[dict[str, int], str]:
    """Three or four names with different scores, and how people say them."""
    chosen, numbers = rng.sample(FIRST_NAMES, 4)[: rng.randint(3, 4)], rng.sample(range(3, 99), 4)
    found = dict(zip(chosen, numbers, strict=False))
    return found, ", ".join(f"{name} {score}" for name, score in found.items())
