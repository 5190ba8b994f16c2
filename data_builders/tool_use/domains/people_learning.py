"""Courses, schools, jobs, posts, phrases, sports clubs: mostly stand-ins for services, what they tell is made up."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice
from data_builders.tool_use.names import LAST_NAMES


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
