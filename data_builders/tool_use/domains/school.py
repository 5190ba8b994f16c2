"""The office of a school: one thing is looked up to look up the next. Pupils, rooms and codes are made up."""

from __future__ import annotations

from data_builders.tool_use.dialogs.samplers import FIRST_NAMES, LAST_NAMES, one_of, person, several, whole
from data_builders.tool_use.dialogs.samplers import code as drawn_code
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice

VILLAGES = (
    "Alderbrook", "Birchfield", "Cold Ashby", "Dunmere", "Eastwick", "Fernhill", "Greenholm", "Hazelford",
    "Inkberrow", "Kettlewell", "Lindale", "Marshgate", "Northolt Green", "Oakridge",
)  # fmt: skip
CLUBS = (
    "chess club", "robotics club", "drama group", "school choir", "rowing team", "debating society", "garden club",
    "photo club", "climbing group", "school paper",
)  # fmt: skip
DISHES = (
    "vegetable lasagna", "fish cakes", "lentil curry", "chicken pie", "spinach dumplings", "pea soup", "cheese omelet",
    "rice with beans",
)  # fmt: skip
ALLERGENS = ("gluten", "milk", "eggs", "fish", "celery", "mustard", "nothing")
TITLES = tuple(
    f"{a} {b}" for a in ("Atlas of", "First Steps in", "The Story of", "Questions about")
    for b in ("Rivers", "Light", "Numbers", "Insects", "Old Maps")
)  # fmt: skip
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


weekday = one_of("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")

TASKS = (
    Task(
        form_of_pupil,
        arguments={"pupil": person()},
        queries=(
            "Which form is {pupil} in?",
            "form of {pupil}",
            "I need to know what class {pupil} belongs to.",
        ),
        answers=("{pupil} is in form {result}.", "That is form {result}."),
        names=("class_of_student", "student_form"),
        parameters={"pupil": ("student", "student_name")},
    ),
    Task(
        form_tutor,
        arguments={"form": one_of(*FORMS)},
        queries=("Who looks after form {form}?", "tutor of {form}", "Who is the class teacher of {form}, please?"),
        answers=("The tutor of {form} is {result}.", "It is {result}."),
        names=("class_teacher", "tutor_of_class"),
        parameters={"form": ("school_class", "class_name")},
    ),
    Task(
        form_classroom,
        arguments={"form": one_of(*FORMS)},
        queries=("Where does {form} have its lessons?", "classroom of {form}", "In which room do I find form {form}?"),
        answers=("{form} is in room {result}.", "Room {result}."),
        names=("room_of_class", "class_room_number"),
        parameters={"form": ("school_class", "class_name")},
    ),
    Task(
        locker_of_pupil,
        arguments={"pupil": person()},
        queries=("What is the number of {pupil}'s locker?", "locker of {pupil}", "Which locker belongs to {pupil}?"),
        answers=("{pupil} has locker {result}.", "It is locker {result}."),
        names=("student_locker", "locker_number"),
        parameters={"pupil": ("student", "student_name")},
    ),
    Task(
        locker_combination,
        arguments={"locker": whole(1, 960)},
        queries=(
            "How is locker {locker} opened?",
            "combination for locker {locker}",
            "I forgot the code of locker {locker}.",
        ),
        answers=("The combination is {result}.", "Locker {locker} opens with {result}."),
        names=("locker_code", "open_locker_with"),
        parameters={"locker": ("locker_number", "box")},
    ),
    Task(
        school_bus_line,
        arguments={"village": one_of(*VILLAGES)},
        queries=(
            "Which school bus goes to {village}?",
            "bus line for {village}",
            "My child lives in {village}. What bus is that?",
        ),
        answers=("Line {result} goes to {village}.", "That is line {result}."),
        names=("bus_for_village", "pupil_bus_route"),
        parameters={"village": ("home_village", "stop_name")},
    ),
    Task(
        bus_leaves_school,
        arguments={"line": whole(11, 79)},
        queries=(
            "When does bus {line} leave the school?",
            Query("When does the late bus {line} leave?", fixed={"late": True}),
            "departure of line {line} at the school",
        ),
        answers=("Bus {line} leaves at {result}.", "At {result}."),
        names=("bus_departure_time", "school_bus_time"),
        parameters={"line": ("bus_line", "route_number"), "late": ("late_bus", "after_clubs")},
    ),
    Task(
        club_supervisor,
        arguments={"club": one_of(*CLUBS)},
        queries=("Who runs the {club}?", "teacher in charge of the {club}", "Whom do I ask about the {club}?"),
        answers=("The {club} is run by {result}.", "That is {result}."),
        names=("club_teacher", "leader_of_group"),
        parameters={"club": ("group", "activity_name")},
    ),
    Task(
        staff_extension,
        arguments={"teacher": person()},
        queries=("What is {teacher}'s extension?", "extension {teacher}", "How do I reach {teacher} by phone?"),
        answers=("{teacher} has extension {result}.", "Dial {result}."),
        names=("teacher_phone", "office_extension"),
        parameters={"teacher": ("staff_member", "teacher_name")},
    ),
    Task(
        canteen_dish,
        arguments={"menu_day": weekday},
        queries=(
            "What is for lunch on {menu_day}?",
            "canteen {menu_day}",
            "What does the canteen serve this {menu_day}?",
        ),
        answers=("On {menu_day} there is {result}.", "It is {result}."),
        names=("lunch_on_day", "menu_of_day"),
        parameters={"menu_day": ("lunch_day", "on_weekday")},
    ),
    Task(
        allergens_of_dish,
        arguments={"canteen_meal": one_of(*DISHES)},
        queries=(
            "What allergens are in the {canteen_meal}?",
            "allergens: {canteen_meal}",
            "Is there anything to watch for in the {canteen_meal}?",
        ),
        answers=("The {canteen_meal} holds {result}.", "It holds {result}."),
        names=("lunch_allergens", "dish_warnings"),
        parameters={"canteen_meal": ("lunch", "food_name")},
    ),
    Task(
        exam_points,
        arguments={"task_points": several(whole(3, 24), 3, 5)},
        queries=(
            "The tasks gave {task_points} points. How many is that in all?",
            "sum of points: {task_points}",
            "Please add up an exam with {task_points} points.",
        ),
        answers=("That is {result} points.", "{result} points in all."),
        names=("add_points", "points_of_exam"),
        parameters={"task_points": ("points", "scores_of_tasks")},
    ),
    Task(
        exam_mark,
        arguments={"points_in_all": whole(12, 100)},
        queries=(
            "What mark are {points_in_all} points?",
            "mark for {points_in_all} of 100",
            "She has {points_in_all} points. Which mark does she get?",
        ),
        answers=("The mark for {points_in_all} points is {result}.", "That is {result}."),
        names=("mark_for_points", "points_to_mark"),
        parameters={"points_in_all": ("sum_of_points", "exam_sum")},
    ),
    Task(
        textbook_barcode,
        arguments={"textbook": one_of(*TITLES)},
        queries=(
            "What is the barcode of {textbook}?",
            "barcode {textbook}",
            "I need the library's code for the book {textbook}.",
        ),
        answers=("Its barcode is {result}.", "{textbook} has the barcode {result}."),
        names=("library_barcode", "code_of_textbook"),
        parameters={"textbook": ("school_book", "title_of_book")},
    ),
    Task(
        book_borrower,
        arguments={"barcode": drawn_code("SL999999")},
        queries=(
            "Who has the book {barcode}?",
            "borrower of {barcode}",
            "A reader asks for {barcode}. Who has it at home?",
        ),
        answers=("{result} has it.", "It is with {result}."),
        names=("who_borrowed", "lent_to"),
        parameters={"barcode": ("book_code", "scanned_code")},
    ),
)  # fmt: skip

CHAINS = (
    Chain(
        form_of_pupil,
        form_tutor,
        feeds="form",
        queries=(
            "Who is the class teacher of {pupil}?",
            "Find {pupil}'s form and tell me its tutor.",
            "I want to speak to the teacher who looks after {pupil}. Who is that?",
        ),
        between=("{pupil} is in form {given}.", "The form is {given}. Now its tutor."),
        answers=("The tutor of {given} is {result}.", "It is {result}."),
    ),
    Chain(
        form_of_pupil,
        form_classroom,
        feeds="form",
        queries=(
            "In which room does {pupil} have lessons?",
            "{pupil} left a bag here. Which classroom do I bring it to?",
            "Look up the form of {pupil} and then its classroom.",
        ),
        between=("{pupil} is in form {given}.", "Form {given}. Now the room."),
        answers=("{given} is in room {result}.", "That is room {result}."),
    ),
    Chain(
        locker_of_pupil,
        locker_combination,
        feeds="locker",
        queries=(
            "{pupil} forgot how to open the locker. What is the combination?",
            "combination of {pupil}'s locker",
            "Find the locker of {pupil}, then the code that opens it.",
        ),
        between=("{pupil} has locker {given}.", "That is locker {given}. Now its combination."),
        answers=("Locker {given} opens with {result}.", "The combination is {result}."),
    ),
    Chain(
        school_bus_line,
        bus_leaves_school,
        feeds="line",
        queries=(
            "When does the bus to {village} leave the school?",
            Query("I stay for the clubs and live in {village}. When does my late bus leave?", fixed={"late": True}),
            "Which line goes to {village}, and when does it leave from the school?",
        ),
        between=("Line {given} goes to {village}.", "It is line {given}. Now the time."),
        answers=("Line {given} leaves at {result}.", "It leaves at {result}."),
    ),
    Chain(
        club_supervisor,
        staff_extension,
        feeds="teacher",
        queries=(
            "What extension do I call about the {club}?",
            "Who runs the {club}, and what is that teacher's extension?",
            "phone extension of the {club}'s teacher",
        ),
        between=("The {club} is run by {given}.", "That is {given}. Now the extension."),
        answers=("{given} has extension {result}.", "Dial {result} for {given}."),
    ),
    Chain(
        form_tutor,
        staff_extension,
        feeds="teacher",
        queries=(
            "Under which extension do I reach the tutor of {form}?",
            "Find the class teacher of {form} and give me the extension.",
            "extension of {form}'s tutor",
        ),
        between=("The tutor of {form} is {given}.", "{given} looks after {form}. Now the extension."),
        answers=("{given} has extension {result}.", "Dial {result}."),
    ),
    Chain(
        canteen_dish,
        allergens_of_dish,
        feeds="canteen_meal",
        queries=(
            "Which allergens are in the canteen's lunch on {menu_day}?",
            "What is served on {menu_day}, and what allergens does it hold?",
            "allergens of the dish on {menu_day}",
        ),
        between=("On {menu_day} there is {given}.", "The dish is {given}. Now its allergens."),
        answers=("The {given} holds {result}.", "It is {given}, which holds {result}."),
    ),
    Chain(
        exam_points,
        exam_mark,
        feeds="points_in_all",
        queries=(
            "An exam has {task_points} points in its tasks. Which mark is that?",
            "Add up {task_points} and tell me the mark.",
            "mark for tasks with {task_points} points",
        ),
        between=("That is {given} points.", "The sum is {given}. Now the mark."),
        answers=("The mark for {given} points is {result}.", "It is {result}."),
    ),
    Chain(
        textbook_barcode,
        book_borrower,
        feeds="barcode",
        queries=(
            "Who has borrowed {textbook}?",
            "Find the barcode of {textbook} and see who has it.",
            "borrower of the book {textbook}",
        ),
        between=("Its barcode is {given}.", "The barcode is {given}. Now the borrower."),
        answers=("{result} has {textbook}.", "It is with {result}."),
    ),
)
