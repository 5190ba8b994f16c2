"""The office of a school: one thing is looked up to look up the next. Pupils, rooms and codes are made up."""

from __future__ import annotations

from data_builders.tool_use.made_up import made_up, made_up_choice
from data_builders.tool_use.names import FIRST_NAMES, LAST_NAMES

DISHES = (
    "vegetable lasagna", "fish cakes", "lentil curry", "chicken pie", "spinach dumplings", "pea soup", "cheese omelet",
    "rice with beans",
)  # fmt: skip
ALLERGENS = ("gluten", "milk", "eggs", "fish", "celery", "mustard", "nothing")
FORMS = tuple(f"{year}{letter}" for year in range(5, 13) for letter in "ABCD")


def form_of_pupil(pupil: str) -> str:
    """Which form (class) a pupil is in.

    Args:
        pupil: First and last name of the pupil.
    """
    return made_up_choice(FORMS, "form", pupil)


def form_tutor(form: str) -> str:
    """Name of the teacher who looks after a form.

    Args:
        form: The form, a year and a letter such as "7B".
    """
    return f"{made_up_choice(FIRST_NAMES, 'tutor', form)} {made_up_choice(LAST_NAMES, 'tutor', form)}"


def form_classroom(form: str) -> int:
    """Number of the room in which a form has its lessons.

    Args:
        form: The form, a year and a letter such as "7B".
    """
    return made_up(101, 348, "room", form)


def locker_of_pupil(pupil: str) -> int:
    """Number of a pupil's locker.

    Args:
        pupil: First and last name of the pupil.
    """
    return made_up(1, 960, "locker", pupil)


def locker_combination(locker: int) -> str:
    """The combination that opens a locker.

    Args:
        locker: Number of the locker.
    """
    return "-".join(f"{made_up(0, 59, 'lock', locker, ring):02d}" for ring in range(3))


def school_bus_line(village: str) -> int:
    """Which line of the school bus serves a village.

    Args:
        village: Name of the village.
    """
    return made_up(11, 79, "bus", village)


def bus_leaves_school(line: int, late: bool = False) -> str:
    """When a bus leaves from the school.

    Args:
        line: Number of the bus line.
        late: Whether the late bus after the clubs is meant. Default is false.
    """
    return f"{16 if late else 13}:{made_up(0, 55, 'leaves', line, late):02d}"


def club_supervisor(club: str) -> str:
    """Name of the teacher who runs a club of the school.

    Args:
        club: Name of the club.
    """
    return f"{made_up_choice(FIRST_NAMES, 'club', club)} {made_up_choice(LAST_NAMES, 'club', club)}"


def staff_extension(teacher: str) -> int:
    """Telephone extension of a teacher.

    Args:
        teacher: First and last name of the teacher.
    """
    return made_up(200, 899, "extension", teacher)


def canteen_dish(menu_day: str) -> str:
    """What the canteen serves on a day of the week.

    Args:
        menu_day: Day of the week, such as "Tuesday".
    """
    return made_up_choice(DISHES, "canteen", menu_day)


def allergens_of_dish(canteen_meal: str) -> str:
    """Which allergens a dish of the canteen holds.

    Args:
        canteen_meal: Name of the dish.
    """
    first, second = (made_up_choice(ALLERGENS, "allergen", canteen_meal, place) for place in (0, 1))
    return first if first == second or second == "nothing" else f"{first} and {second}"


def exam_points(task_points: list[int]) -> int:
    """Add up the points of the single tasks of an exam.

    Args:
        task_points: Points of each task.
    """
    return sum(task_points)


def exam_mark(points_in_all: int) -> str:
    """The mark that an exam gets for its points, of 100.

    Args:
        points_in_all: Sum of the points of all tasks.
    """
    marks = ((85, "excellent"), (70, "good"), (55, "fair"), (40, "sufficient"))
    return next((mark for least, mark in marks if points_in_all >= least), "failed")


def textbook_barcode(textbook: str) -> str:
    """Barcode of a book of the school library.

    Args:
        textbook: Title of the book.
    """
    return f"SL{made_up(100000, 999999, 'barcode', textbook)}"


def book_borrower(barcode: str) -> str:
    """Who has borrowed a book of the school library.

    Args:
        barcode: The book's barcode, such as "SL204518".
    """
    return f"{made_up_choice(FIRST_NAMES, 'lent', barcode)} {made_up_choice(LAST_NAMES, 'lent', barcode)}"
