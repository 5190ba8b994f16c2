"""Courses, schools, jobs, posts, phrases, sports clubs: mostly stand-ins for services, what they tell is made up."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.dialogs.samplers import (
    LAST_NAMES,
    city,
    clock,
    date,
    decimal,
    one_of,
    person,
    several,
    weekday,
    whole,
)
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice


def find_course(subject: str, level: Literal["beginner", "intermediate", "advanced"], evening: bool = False) -> str:
    """Find a course at the adult education center; gives its code.

    Args:
        subject: What the course teaches.
        level: Level of the learners.
        evening: Whether it must take place in the evening.
    """
    return f"{subject[:3].upper()}-{level[0].upper()}{made_up(100, 999, subject, level, evening)}"


def enroll_student(course_code: str, student: str, partner: str = "") -> dict:
    """Enroll somebody in a course.

    Args:
        course_code: Code of the course, such as "POT-B217".
        student: First and last name of the one who takes the course.
        partner: Name of a second person who comes along.
    """
    return {"status": "enrolled", "fee": made_up(40, 290, course_code), "room": made_up(100, 420, course_code, student)}


def average_without_lowest(scores: list[float], drop: int = 0) -> float:
    """Average of a student's scores, the lowest ones left out.

    Args:
        scores: All scores of the student, 0 to 100.
        drop: How many of the lowest scores are not counted. Default is 0.
    """
    if drop >= len(scores):
        raise ValueError(f"drop must be less than the number of scores, {len(scores)}")
    kept = sorted(scores)[drop:]
    return round(sum(kept) / len(kept), 2)


def letter_for_score(average_score: float, honors: bool = False) -> str:
    """Letter grade for a score from 0 to 100.

    Args:
        average_score: The score; 90 and more is an A, 80 a B, 70 a C, 60 a D, less an F.
        honors: True for an honors class, where five points are added first.
    """
    score = average_score + 5 * honors
    return next((letter for low, letter in ((90, "A"), (80, "B"), (70, "C"), (60, "D")) if score >= low), "F")


def nearest_school(town: str, school_type: str, max_km: int = 10) -> dict:
    """The nearest school of a type that still has places.

    Args:
        town: Town in which the family lives.
        school_type: One of primary, secondary, music, vocational.
        max_km: Farthest distance in kilometers. Default is 10.
    """
    if school_type not in ("primary", "secondary", "music", "vocational"):
        raise ValueError(f"school_type {school_type!r} is not known; use primary, secondary, music or vocational")
    name = f"{made_up_choice(LAST_NAMES, town, school_type)} {school_type.capitalize()} School"
    return {
        "school_name": name,
        "km": made_up(1, max_km, town, school_type),
        "places": made_up(1, 30, town, school_type),
    }


def job_openings(job_title: str, place: str, minimum_salary: int = 0, remote: bool = False) -> dict:
    """Look for open positions.

    Args:
        job_title: The profession, e.g. "welder".
        place: City where the job is.
        minimum_salary: Lowest yearly salary that is acceptable. Default is 0.
        remote: Whether it must be possible to work from home.
    """
    company = (
        f"{made_up_choice(LAST_NAMES, job_title, place)} {made_up_choice(('Group', 'Labs', 'Works'), place, remote)}"
    )
    return {"openings": made_up(1, 80, job_title, place, minimum_salary, remote), "best_company": company}


def employer_stars(employer: str, aspect: Literal["pay", "hours", "managers", "overall"] = "overall") -> float:
    """Average rating, 1 to 5 stars, that employees give their employer.

    Args:
        employer: Name of the company.
        aspect: What is rated.
    """
    return made_up(20, 50, employer, aspect) / 10


def best_posting_time(audience: str, weekday: str, network: str = "any") -> str:
    """Time of day (HH:MM) at which a post reaches most people of an audience.

    Args:
        audience: Whom the post is for, such as "young parents".
        weekday: English name of the day, e.g. "Monday".
        network: Name of the social network. Default is "any".
    """
    return f"{made_up(6, 22, audience, weekday):02d}:{15 * made_up(0, 3, audience, network):02d}"


def schedule_post(post_text: str, post_at: str, hashtags: list[str]) -> dict:
    """Have a text posted later today on the user's social media page.

    Args:
        post_text: Exact text of the post.
        post_at: Time at which it goes out, HH:MM in 24 hours.
        hashtags: Tags to add, without the # sign.
    """
    characters = len(post_text) + sum(len(tag) + 2 for tag in hashtags)
    return {"post_id": f"P{made_up(10000, 99999, post_text, post_at)}", "characters": characters, "at": post_at}


PHRASES = {
    "good morning": {"Spanish": "buenos días", "French": "bonjour", "German": "guten Morgen", "Italian": "buongiorno"},
    "thank you": {"Spanish": "gracias", "French": "merci", "German": "danke", "Italian": "grazie"},
    "see you soon": {"Spanish": "hasta pronto", "French": "à bientôt", "German": "bis bald", "Italian": "a presto"},
    "enjoy": {"Spanish": "disfruta", "French": "profite", "German": "viel Spaß", "Italian": "buon divertimento"},
    "welcome": {"Spanish": "bienvenidos", "French": "bienvenue", "German": "willkommen", "Italian": "benvenuti"},
    "good evening": {"Spanish": "buenas tardes", "French": "bonsoir", "German": "guten Abend", "Italian": "buonasera"},
}  # fmt: skip


def phrase_in(phrase: str, language: str, capital: bool = False) -> str:
    """Say a common English phrase in another language.

    Args:
        phrase: The English phrase in small letters, for instance "thank you".
        language: Spanish, French, German or Italian.
        capital: Whether the result begins with a capital letter.
    """
    if language not in ("Spanish", "French", "German", "Italian"):
        raise ValueError(f"language {language!r} is not known; use Spanish, French, German or Italian")
    if phrase not in PHRASES:
        raise ValueError(f"phrase {phrase!r} is not in the phrase book; it has {', '.join(PHRASES)}")
    text = PHRASES[phrase][language]
    return text[0].upper() + text[1:] if capital else text


def find_sports_club(sport: str, area: str, for_children: bool = False) -> str:
    """Name of a club where a sport is done.

    Args:
        sport: The sport, such as "handball".
        area: City or region.
        for_children: True to look for a club with a group for children.
    """
    kind = made_up_choice(("Rovers", "Lions", "Union", "Falcons", "Athletics"), sport, area)
    return f"{area} {'Junior ' if for_children else ''}{sport.capitalize()} {kind}"


def join_club(club: str, member: str, since: str, passive: bool = False) -> dict:
    """Apply for the membership in a club.

    Args:
        club: Full name of the club.
        member: Name of the new member.
        since: First day of the membership, YYYY-MM-DD.
        passive: A supporter who does not play.
    """
    fee = made_up(60, 240, club) // (2 if passive else 1)
    return {"member_number": made_up(1000, 9999, club, member), "yearly_fee": fee, "starts": since}


SUBJECTS = (
    "pottery", "bookkeeping", "photography", "first aid", "sewing", "robotics", "beekeeping", "public speaking",
    "guitar")  # fmt: skip
JOBS = (
    "welder", "pharmacist", "data analyst", "bus driver", "pastry chef", "land surveyor", "dental nurse",
    "sound engineer", "florist")  # fmt: skip
AUDIENCES = ("young parents", "runners", "home cooks", "students", "gardeners", "board gamers", "dog owners")
TAGS = (
    "spring", "sale", "running", "booklove", "vegan", "handmade", "craft", "weekend", "community", "newin")  # fmt: skip
SPORTS = (
    "handball", "rowing", "fencing", "judo", "badminton", "climbing", "water polo", "archery")  # fmt: skip
POSTS = (
    "Our doors are open on Sunday!", "New season, new shoes.", "Who wants to bake with us?",
    "Two tickets left for tonight.", "The plants are here.", "Meet our new trainer.", "Soup of the day: pumpkin.",
    "We found a kitten in the yard.")  # fmt: skip
company = one_of(
    *(f"{name} {tail}" for name in LAST_NAMES[::2] for tail in ("Foods", "Motors", "Insurance", "Textiles"))
)
code = one_of(*(f"{a}-{b}{n}" for a in ("POT", "SEW", "ROB", "GUI", "FIR") for b in "BIA" for n in range(103, 999, 71)))
club = one_of(
    *(f"{a} {b} Club" for a in ("Riga", "Lyon", "Turin", "Ghent") for b in ("Rowing", "Judo", "Chess", "Ski"))
)

TASKS = (
    Task(
        find_course,
        arguments={"subject": one_of(*SUBJECTS), "level": one_of("beginner", "intermediate", "advanced")},
        queries=(
            "Is there a course in {subject} at {level} level?",
            "Find me a {level} course: {subject}.",
            Query(
                "I work all day, so I need an evening class in {subject}. My level is {level}.", fixed={"evening": True}
            ),
            "course code wanted; subject {subject}, level {level}",
        ),
        answers=("The course {result} fits.", "Take {result}."),
        names=("search_class", "course_finder", "look_up_class_code"),
        parameters={"subject": ("topic", "teaches"), "level": ("difficulty",), "evening": ("in_the_evening",)},
    ),
    Task(
        enroll_student,
        arguments={"course_code": code, "student": person(), "partner": person()},
        queries=(
            "Enroll {student} in {course_code}.",
            "Please sign {student} up for the course {course_code}; {partner} comes along.",
            "course {course_code} <- {student}",
            "My friend {student} finally decided to learn something new and wants to take {course_code}. Enroll them?",
        ),
        answers=("Done ({status}); the fee is {fee} and the room {room}.", "The course costs {fee}, in room {room}."),
        names=("register_for_class", "sign_up_student", "book_course_place"),
        parameters={"course_code": ("code", "class_id"), "student": ("student_name", "learner"),
                    "partner": ("second",)},
    ),
    Task(
        average_without_lowest,
        arguments={"scores": several(decimal(45, 100), 4, 7), "drop": whole(2, 3)},
        queries=(
            "What is the average of the scores {scores}?",
            "Average {scores}, but drop the {drop} lowest.",
            "My scores were {scores}. Our teacher leaves out the worst {drop}. What is my average?",
            "scores: {scores}; mean?",
        ),
        answers=("The average is {result}.", "It comes to {result}."),
        names=("mean_score", "grade_mean", "score_average_dropping"),
        parameters={"scores": ("marks", "results"), "drop": ("leave_out", "lowest_dropped")},
    ),
    Task(
        letter_for_score,
        arguments={"average_score": decimal(48, 94)},
        queries=(
            "Which letter grade is a score of {average_score}?",
            "{average_score} points as a letter, please",
            Query("In my honors class I have {average_score}. What letter is that?", fixed={"honors": True}),
            "I finished the term with {average_score} of 100. What will the report card say?",
        ),
        answers=("That is a grade of {result}.", "The letter is {result}."),
        names=("score_to_letter", "letter_grade", "report_card_grade"),
        parameters={"average_score": ("score", "points"), "honors": ("honors_class",)},
    ),
    Task(
        nearest_school,
        arguments={"town": city(), "school_type": one_of("primary", "secondary", "music", "vocational"),
                   "max_km": whole(3, 40)},
        queries=(
            "Which {school_type} school in {town} still has places?",
            "Find a {school_type} school near us in {town}, at most {max_km} km away.",
            "We are moving to {town} with our daughter. Where is the nearest {school_type} school?",
            "town: {town}, type: {school_type}, radius: {max_km} km",
        ),
        answers=("{school_name} is {km} km away and has {places} places.", "Try {school_name} ({places} places left)."),
        names=("school_nearby", "find_school_place", "search_schools"),
        parameters={"town": ("city", "home_town"), "school_type": ("kind",), "max_km": ("radius_km", "distance")},
        slips={"school_type": (("elementary", "primary"), ("high", "secondary"), ("trade", "vocational"))},
    ),
    Task(
        job_openings,
        arguments={"job_title": one_of(*JOBS), "place": city(), "minimum_salary": whole(28000, 95000)},
        queries=(
            "Are there any jobs as a {job_title} in {place}?",
            "Search for {job_title} positions in {place} that pay {minimum_salary} or more.",
            Query("Remote work as a {job_title} for a company in {place}: what is open?", fixed={"remote": True}),
            "I lost my job last week. I am a {job_title} in {place} and cannot live on less than {minimum_salary} a "
            "year.",
        ),
        answers=("There are {openings} openings, the best at {best_company}.", "Look at {best_company} first."),
        names=("search_jobs", "open_positions", "find_vacancies"),
        parameters={"job_title": ("profession", "role"), "place": ("city", "location"), "minimum_salary": ("pay_from",),
                    "remote": ("home_office",)},
    ),
    Task(
        employer_stars,
        arguments={"employer": company, "aspect": one_of("pay", "hours", "managers")},
        queries=(
            "How do employees rate {employer}?",
            "What do people who work at {employer} think of the {aspect} there, in stars?",
            "{employer}: rating for {aspect}",
            "I have an offer from {employer}. Before I sign: how many stars does it get?",
        ),
        answers=("It has {result} of 5 stars.", "The employees give {result} stars."),
        names=("company_rating", "workplace_reviews", "rate_of_employer"),
        parameters={"employer": ("company", "firm"), "aspect": ("criterion", "rated_for")},
    ),
    Task(
        best_posting_time,
        arguments={"audience": one_of(*AUDIENCES), "weekday": weekday(),
                   "network": one_of("Pixly", "Chatterbox", "Loopr")},
        queries=(
            "When on {weekday} should I post for {audience}?",
            "Best time to reach {audience} on {network} on a {weekday}?",
            "audience = {audience}, day = {weekday}",
            "Our little shop wants to be seen by {audience}. At what time on {weekday} do we post?",
        ),
        answers=("Post at {result}.", "The best time is {result}."),
        names=("when_to_post", "peak_hour_for", "posting_slot"),
        parameters={"audience": ("target_group", "readers"), "weekday": ("day",), "network": ("platform",)},
    ),
    Task(
        schedule_post,
        arguments={"post_text": one_of(*POSTS), "post_at": clock(), "hashtags": several(one_of(*TAGS), 1, 4)},
        queries=(
            'Post "{post_text}" at {post_at} with the tags {hashtags}.',
            "At {post_at} today, put this on our page: '{post_text}'. Hashtags: {hashtags}",
            "time {post_at} / tags {hashtags} / text: {post_text}",
            'Please schedule a post for {post_at}. It should say "{post_text}" and have the hashtags {hashtags}.',
        ),
        answers=("Post {post_id} goes out at {at} ({characters} characters).", "Scheduled for {at} as {post_id}."),
        names=("queue_post", "publish_later", "plan_social_post"),
        parameters={"post_text": ("message", "text"), "post_at": ("time", "publish_time"), "hashtags": ("tags",)},
    ),
    Task(
        phrase_in,
        arguments={"phrase": one_of(*PHRASES), "language": one_of("Spanish", "French", "German", "Italian")},
        queries=(
            'How do you say "{phrase}" in {language}?',
            "Translate {phrase} into {language}.",
            Query("I am writing a card in {language}: '{phrase}', beginning with a capital letter.",
                  fixed={"capital": True}),
            "{language} for: {phrase}",
        ),
        answers=('It is "{result}".', "You say: {result}"),
        names=("translate_common_phrase", "phrase_book", "say_in_language"),
        parameters={"phrase": ("english_phrase", "expression"), "language": ("target_language", "into")},
        slips={"language": (("Castilian", "Spanish"), ("Deutsch", "German"), ("Français", "French"))},
    ),
    Task(
        find_sports_club,
        arguments={"sport": one_of(*SPORTS), "area": city()},
        queries=(
            "Where can I do {sport} in {area}?",
            "Name a {sport} club in {area}.",
            Query("My kids want to try {sport}. Is there a club for them in {area}?", fixed={"for_children": True}),
            "club search: {sport}, {area}",
        ),
        answers=("Try {result}.", "The club is called {result}."),
        names=("sports_club_search", "club_for_sport", "team_near"),
        parameters={"sport": ("discipline", "activity"), "area": ("city", "region"), "for_children": ("kids",)},
    ),
    Task(
        join_club,
        arguments={"club": club, "member": person(), "since": date("2025-01-01", "2027-06-30")},
        queries=(
            "Make {member} a member of {club} from {since} on.",
            "Application: {club}; name {member}; start {since}",
            Query(
                "{member} only wants to support {club} as a passive member, starting {since}.", fixed={"passive": True}
            ),
            "I would like to join {club} on {since}. My name is {member}.",
        ),
        answers=("Member number {member_number}; the yearly fee is {yearly_fee}.",
                 "The membership starts on {starts}."),
        names=("apply_membership", "become_member", "club_sign_up"),
        parameters={"club": ("club_name",), "member": ("name", "applicant"), "since": ("start_date", "from_day")},
    ),
)  # fmt: skip

CHAINS = (
    Chain(
        find_course,
        enroll_student,
        feeds="course_code",
        queries=(
            "Find a {level} course in {subject} and enroll {student}.",
            "{student} wants to learn {subject} ({level}), together with {partner}. Find the course and sign them up.",
            Query("Evening class in {subject}, {level}: put {student} on the list.", fixed={"evening": True}),
        ),
        between=("The course is {given}.", "{given} fits; I enroll now."),
        answers=("Enrolled in {given}; the fee is {fee}.", "Done: {given}, room {room}."),
    ),
    Chain(
        average_without_lowest,
        letter_for_score,
        feeds="average_score",
        queries=(
            "My scores are {scores}. Which letter grade does the average give?",
            "Drop the {drop} lowest of {scores} and tell me the letter for the average.",
            Query("Honors class, scores {scores}: what letter do I get for the average?", fixed={"honors": True}),
        ),
        between=("The average is {given}.", "That averages to {given}."),
        answers=("An average of {given} is a {result}.", "You get the grade {result}."),
    ),
    Chain(
        job_openings,
        employer_stars,
        feeds="employer",
        takes="best_company",
        queries=(
            "Which company has the best {job_title} job in {place}, and how do its people rate it?",
            "Find {job_title} jobs in {place} from {minimum_salary} up. Then the stars of the best company for "
            "{aspect}.",
            "{job_title} in {place}: what rating does the top company have for {aspect}?",
        ),
        between=("The best is {given}.", "{given} is the best match."),
        answers=("{given} has {result} stars.", "{result} of 5 stars for {given}."),
    ),
    Chain(
        phrase_in,
        schedule_post,
        feeds="post_text",
        queries=(
            'Translate "{phrase}" into {language} and post that at {post_at} with the tags {hashtags}.',
            "At {post_at} our page should say '{phrase}' in {language}. Hashtags: {hashtags}",
            "post ({language}): {phrase}; {post_at}; tags {hashtags}",
        ),
        between=('That is "{given}".', "It says: {given}"),
        answers=('"{given}" goes out at {at}.', "Scheduled as {post_id}."),
    ),
    Chain(
        find_sports_club,
        join_club,
        feeds="club",
        queries=(
            "Find a {sport} club in {area} and make {member} a member from {since}.",
            "{member} wants to do {sport} in {area}. Which club is there? Join it on {since}.",
            Query("Children's {sport} in {area}: find the club, then apply for {member}, starting {since}.",
                  fixed={"for_children": True}),
        ),
        between=("There is {given}.", "The club is {given}."),
        answers=("Welcome to {given}! The number is {member_number}.", "The fee of {given} is {yearly_fee} a year."),
    ),
)  # fmt: skip
