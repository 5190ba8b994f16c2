"""Courts, patents, archives, elections, libraries: stand-ins for services, what they tell is made up."""

from __future__ import annotations

import math
from datetime import date as Date
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice
from data_builders.tool_use.names import FIRST_NAMES, LAST_NAMES


def docket_number(plaintiff: str, defendant: str, year_filed: int, court: str = "district court") -> str:
    """Find the docket number of a lawsuit by its parties.

    Args:
        plaintiff: Name of the party that sues.
        defendant: Name of the party that is sued.
        year_filed: Year in which the suit was filed.
        court: Kind of court, e.g. "tax court". Default is "district court".
    """
    return f"{year_filed}-CV-{made_up(1000, 9999, plaintiff, defendant, court)}"


def docket_entries(docket: str, kind: Literal["motions", "orders", "hearings", "any"] = "any") -> dict:
    """Count the entries of a court docket.

    Args:
        docket: Docket number, such as "2022-CV-1834".
        kind: Which entries are counted.
    """
    return {"entries": made_up(1, 70, docket, kind), "last_page": made_up(71, 400, docket)}


def hearing_schedule(case_reference: str, language: str = "English") -> dict:
    """When and before which judge a case is heard next.

    Args:
        case_reference: Reference of the case as it stands in the letters of the court.
        language: Language for which an interpreter is wanted.
    """
    day = Date(2026, 1, 5) + timedelta(days=made_up(0, 50, case_reference) * 7 + made_up(0, 4, case_reference, "day"))
    judge = f"{made_up_choice(FIRST_NAMES, case_reference)} {made_up_choice(LAST_NAMES, case_reference)}"
    return {"date": day.isoformat(), "judge": judge, "courtroom": made_up(1, 30, case_reference, language)}


def judge_caseload(judge_name: str, year: int, open_only: bool = False) -> int:
    """How many cases a judge had in a year.

    Args:
        judge_name: First and last name of the judge.
        year: Calendar year.
        open_only: Count only those that are not decided yet.
    """
    return made_up(8, 60, judge_name, year) if open_only else made_up(61, 320, judge_name, year)


def patent_filing_date(patent_number: str) -> str:
    """The day on which a patent was filed.

    Args:
        patent_number: Number with the country's letters in front, e.g. "EP2481903".
    """
    return (Date(2003, 1, 1) + timedelta(days=made_up(0, 6900, patent_number))).isoformat()


def patent_expiry(filing_date: str, extension_days: int = 0) -> str:
    """The day on which a patent runs out: twenty years after its filing, and what was added.

    Args:
        filing_date: Day of filing in the form YYYY-MM-DD.
        extension_days: Days by which the term was extended. Default is 0.
    """
    filed = Date.fromisoformat(filing_date)
    day = 28 if (filed.month, filed.day) == (2, 29) else filed.day
    return (Date(filed.year + 20, filed.month, day) + timedelta(days=extension_days)).isoformat()


def archive_documents(topic: str, archives: list[str], from_year: int = 1500, to_year: int = 2000) -> dict:
    """Search historical archives for documents.

    Args:
        topic: What the documents are about.
        archives: Cities of the archives to be searched.
        from_year: Earliest year of the documents.
        to_year: Latest year of the documents.
    """
    if from_year > to_year:
        raise ValueError("from_year is later than to_year; give the earlier year as from_year")
    return {"documents": made_up(2, 900, topic, sorted(archives)), "oldest": made_up(from_year, to_year, topic)}


def years_between(earlier_year: int, later_year: int, earlier_is_bce: bool = False) -> int:
    """Years between two events of history; there was no year zero.

    Args:
        earlier_year: Year of the first event, always as a positive number.
        later_year: Year of the second event, CE.
        earlier_is_bce: True if the first event was before the common era.
    """
    return earlier_year + later_year - 1 if earlier_is_bce else later_year - earlier_year


def votes_cast(district: str, election_day: str) -> int:
    """How many ballots were cast in a city on an election day.

    Args:
        district: The city whose ballots are counted.
        election_day: Day of the election, YYYY-MM-DD.
    """
    return made_up(21_000, 48_000, district, election_day)


def turnout_percent(ballots: int, registered_voters: int, invalid_ballots: int = 0) -> float:
    """Turnout of an election in percent.

    Args:
        ballots: Number of ballots in the box.
        registered_voters: Number of people who could vote.
        invalid_ballots: Ballots that are not to be counted. Default is 0.
    """
    return round(100 * (ballots - invalid_ballots) / registered_voters, 2)


def majority_needed(members: int, rule: str, absent: int = 0) -> int:
    """Smallest number of votes that carries a motion.

    Args:
        members: Number of members of the chamber.
        rule: One of simple, two-thirds, three-quarters.
        absent: Members who are not there and do not count.
    """
    present = members - absent
    if rule == "simple":
        return present // 2 + 1
    if rule not in ("two-thirds", "three-quarters"):
        raise ValueError(f"rule {rule!r} is not known; use one of simple, two-thirds, three-quarters")
    return math.ceil(present * 2 / 3) if rule == "two-thirds" else math.ceil(present * 3 / 4)


def shelf_mark(book_title: str, author: str = "", large_print: bool = False) -> str:
    """Where a book stands in the public library.

    Args:
        book_title: Title of the book.
        author: Who wrote it; may be left out.
        large_print: Look for an edition in large letters.
    """
    return (
        f"{'L' if large_print else ''}{made_up_choice('ABCDEFGHKM', book_title)}{made_up(10, 999, book_title, author)}"
    )


def hold_book(call_number: str, card_number: int, pickup_branch: str = "Central") -> dict:
    """Put a library book aside for a reader.

    Args:
        call_number: The book's shelf mark, e.g. "K417".
        card_number: Number on the reader's library card.
        pickup_branch: Branch at which it is fetched. Default is "Central".
    """
    return {"queue": made_up(1, 9, call_number), "days": made_up(1, 21, call_number, card_number), "at": pickup_branch}
