"""Courts, patents, archives, elections, libraries: stand-ins for services, what they tell is made up."""

from __future__ import annotations

import math
from datetime import date as Date
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.dialogs.samplers import FIRST_NAMES, LAST_NAMES, city, date, one_of, person, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice


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


COURTS = ("tax court", "labor court", "appeals court", "family court", "patent court")
FIRMS = (
    "Harbor Foods", "Blue Fern Ltd", "Northgate Steel", "Ostrich Games", "Pinewood Homes", "Quartz Energy",
    "Silk Road Travel")  # fmt: skip
THEMES = (
    "salt trade", "canal building", "the plague", "guild rules", "witch trials", "silver mines", "whaling",
    "postal riders")  # fmt: skip
BOOKS = (
    "The Glass Orchard", "A Map of Small Rivers", "Winter in Harrow Street", "The Last Lamplighter",
    "Nine Kinds of Rain", "Letters from the Salt House", "The Clockmaker's Sister", "Bread and Thunder",
    "How Bridges Stand", "A Field of Kites")  # fmt: skip
firm = one_of(*FIRMS, *(f"{name} & Sons" for name in LAST_NAMES[::5]))
docket_sample = one_of(*(f"{year}-CV-{number}" for year in range(2016, 2026) for number in range(1043, 9999, 317)))
case = one_of(*(f"{a}/{n}/{y}" for a in ("4 F", "12 C", "2 KR", "9 A") for n in range(17, 600, 41) for y in (24, 25)))
patent = one_of(*(f"{land}{number}" for land in ("EP", "US", "JP", "DE") for number in range(2100307, 9800000, 412811)))
branch = one_of("Riverside", "Old Town", "Hillview", "Station Road", "Westpark", "Harbor")

TASKS = (
    Task(
        docket_number,
        arguments={"plaintiff": person(), "defendant": firm, "year_filed": whole(2009, 2025), "court": one_of(*COURTS)},
        queries=(
            "What is the docket number of {plaintiff} versus {defendant}, filed in {year_filed}?",
            "Find the {year_filed} lawsuit of {plaintiff} against {defendant} at the {court}.",
            "In {year_filed} my neighbor {plaintiff} took {defendant} to court. Under which number is that?",
            "plaintiff: {plaintiff}, defendant: {defendant}, court: {court}, year: {year_filed}",
        ),
        answers=("It is filed under {result}.", "The docket number is {result}."),
        names=("find_lawsuit", "case_number_by_parties", "look_up_docket"),
        parameters={"plaintiff": ("suing_party", "claimant"), "defendant": ("sued_party", "respondent"),
                    "year_filed": ("filing_year", "year"), "court": ("court_type",)},
    ),
    Task(
        docket_entries,
        arguments={"docket": docket_sample, "kind": one_of("motions", "orders", "hearings")},
        queries=(
            "How many {kind} are on docket {docket}?",
            "Count everything on the docket {docket}.",
            "{docket}: number of {kind}",
            "For the case {docket} I would like to know how many {kind} there have been so far.",
        ),
        answers=("There are {entries} of them, the last on page {last_page}.", "The docket shows {entries}."),
        names=("count_filings", "docket_summary", "list_case_entries"),
        parameters={"docket": ("docket_id", "case_number"), "kind": ("entry_type",)},
    ),
    Task(
        hearing_schedule,
        arguments={"case_reference": case, "language": one_of("Spanish", "Arabic", "Polish", "Turkish", "Tamil")},
        queries=(
            "When is the next hearing in the case {case_reference}?",
            "I got a letter about {case_reference} and need an interpreter for {language}. When and where do I go?",
            "hearing for {case_reference}, please",
            "Look up date, judge and room of the case with the reference {case_reference}.",
        ),
        answers=("It is on {date} in courtroom {courtroom}, before judge {judge}.",
                 "{judge} hears the case on {date}."),
        names=("next_hearing", "court_date", "session_of_case"),
        parameters={"case_reference": ("reference", "file_number"), "language": ("interpreter_language",)},
    ),
    Task(
        judge_caseload,
        arguments={"judge_name": person(), "year": whole(2012, 2025)},
        queries=(
            "How many cases did judge {judge_name} have in {year}?",
            "Caseload of {judge_name}, {year}",
            Query("Of the cases that judge {judge_name} got in {year}, how many are still open?",
                  fixed={"open_only": True}),
            "A journalist asks how busy judge {judge_name} was in {year}. Can you give me the number of cases?",
        ),
        answers=("The register counts {result} cases.", "There were {result}."),
        names=("cases_of_judge", "judge_workload", "count_judge_cases"),
        parameters={"judge_name": ("judge", "name"), "year": ("calendar_year",), "open_only": ("undecided_only",)},
    ),
    Task(
        patent_filing_date,
        arguments={"patent_number": patent},
        queries=(
            "When was the patent {patent_number} filed?",
            "filing date {patent_number}",
            "I am looking into {patent_number}. On what day was it handed in?",
            "Could you check the register for the day on which {patent_number} was filed?",
        ),
        answers=("It was filed on {result}.", "The filing date is {result}."),
        names=("patent_filed_on", "lookup_patent_date", "application_day"),
        parameters={"patent_number": ("patent", "publication_number")},
    ),
    Task(
        patent_expiry,
        arguments={"filing_date": date("2004-01-01", "2024-12-31"), "extension_days": whole(20, 900)},
        queries=(
            "A patent was filed on {filing_date}. When does it run out?",
            "Our patent of {filing_date} got {extension_days} extra days. Until when are we protected?",
            "expiry date; filed {filing_date}; extended by {extension_days} days",
            "Please tell me when something patented with a filing date of {filing_date} becomes free for all.",
        ),
        answers=("It expires on {result}.", "The protection ends on {result}."),
        names=("patent_end_date", "protection_ends", "patent_term_end"),
        parameters={"filing_date": ("filed_on", "filed"), "extension_days": ("extra_days", "extended_by")},
    ),
    Task(
        archive_documents,
        arguments={"topic": one_of(*THEMES), "archives": several(city(), 1, 3), "from_year": whole(1510, 1700),
                   "to_year": whole(1701, 1950)},
        queries=(
            "Search the archives of {archives} for documents about {topic}.",
            "I write my thesis about {topic} from {from_year} to {to_year}. What do the archives in {archives} hold?",
            "archive search | topic {topic} | places {archives} | not before {from_year}",
            "Are there papers on {topic} until {to_year} in {archives}?",
        ),
        answers=("There are {documents} documents, the oldest of {oldest}.", "I found {documents} papers."),
        names=("search_historical_papers", "archive_hits", "find_sources"),
        parameters={"topic": ("subject",), "archives": ("cities", "places"), "from_year": ("earliest",),
                    "to_year": ("latest",)},
    ),
    Task(
        years_between,
        arguments={"earlier_year": whole(20, 900), "later_year": whole(901, 2020)},
        queries=(
            "How many years lie between {earlier_year} and {later_year}?",
            Query("How many years passed from {earlier_year} BC to {later_year} AD?", fixed={"earlier_is_bce": True}),
            Query("One battle was in {earlier_year} BCE, the other in {later_year} CE. How far apart are they?",
                  fixed={"earlier_is_bce": True}),
            "The abbey was founded in {earlier_year} and burned down in {later_year}. How long did it stand?",
        ),
        answers=("There are {result} years between them.", "{result} years."),
        names=("span_in_years", "historical_distance", "elapsed_years"),
        parameters={"earlier_year": ("first_year",), "later_year": ("second_year",),
                    "earlier_is_bce": ("first_is_bc",)},
    ),
    Task(
        votes_cast,
        arguments={"district": city(), "election_day": date("2016-01-01", "2025-12-31")},
        queries=(
            "How many ballots were cast in {district} in the election of {election_day}?",
            "Number of votes, {district}, {election_day}",
            "I need the count of ballots from {district} for the vote on {election_day}.",
            "What does the election office say about {district} on {election_day}: how many people voted?",
        ),
        answers=("{result} ballots were cast.", "The office counted {result}."),
        names=("ballot_count", "count_of_votes", "election_ballots"),
        parameters={"district": ("city", "constituency"), "election_day": ("election_date", "voted_on")},
    ),
    Task(
        turnout_percent,
        arguments={"ballots": whole(15000, 48000), "registered_voters": whole(50000, 99000),
                   "invalid_ballots": whole(100, 900)},
        queries=(
            "{ballots} of {registered_voters} registered voters went to vote. What was the turnout?",
            "Turnout in percent: {ballots} ballots, {invalid_ballots} of them invalid and not to be counted, "
            "{registered_voters} voters",
            "We counted {ballots} ballots. {registered_voters} people are on the rolls. How high is the turnout?",
            "voters on the list {registered_voters}, ballots {ballots} - please give me the turnout",
        ),
        answers=("The turnout was {result} percent.", "It was {result}%."),
        names=("voter_turnout", "participation_rate", "share_of_voters"),
        parameters={"ballots": ("votes",), "registered_voters": ("electorate", "eligible"),
                    "invalid_ballots": ("spoiled",)},
    ),
    Task(
        majority_needed,
        arguments={"members": whole(25, 700), "rule": one_of("simple", "two-thirds", "three-quarters"),
                   "absent": whole(2, 20)},
        queries=(
            "How many votes does a {rule} majority take in a council of {members}?",
            "Chamber of {members}, {absent} absent, {rule} majority: votes needed?",
            "We have {members} members and our statute wants a {rule} majority. How many must say yes?",
            "If {absent} of the {members} deputies are away and do not count, what is the {rule} majority?",
        ),
        answers=("At least {result} votes are needed.", "It takes {result} votes."),
        names=("votes_to_pass", "required_majority", "motion_threshold"),
        parameters={"members": ("chamber_size", "total"), "rule": ("majority_type",), "absent": ("missing", "away")},
        slips={"rule": (("2/3", "two-thirds"), ("3/4", "three-quarters"), ("plain", "simple"))},
    ),
    Task(
        shelf_mark,
        arguments={"book_title": one_of(*BOOKS), "author": person()},
        queries=(
            'Where do I find "{book_title}" in the library?',
            "Shelf mark of {book_title} by {author}, please.",
            Query('My grandmother wants to read "{book_title}" by {author}. Where is the large print edition?',
                  fixed={"large_print": True}),
            "library: {book_title} / {author}",
        ),
        answers=("It stands at {result}.", "Go to the shelf {result}."),
        names=("find_on_shelf", "book_location", "library_catalog_lookup"),
        parameters={"book_title": ("title", "book"), "author": ("written_by",), "large_print": ("big_letters",)},
    ),
    Task(
        hold_book,
        arguments={"call_number": one_of(*(f"{a}{n}" for a in "ABCDEFGHKM" for n in range(14, 999, 67))),
                   "card_number": one_of(*range(100013, 999999, 7919)), "pickup_branch": branch},
        queries=(
            "Hold the book {call_number} for me, my card is {card_number}.",
            "Please put {call_number} aside at the {pickup_branch} branch; library card {card_number}.",
            "card {card_number} | hold {call_number} | fetch at {pickup_branch}",
            "I am reader {card_number}, and the book that I want, {call_number}, is always out. Reserve it?",
        ),
        answers=("You are number {queue} in the queue; fetch it at {at} in {days} days.", "Held for you at {at}."),
        names=("reserve_library_book", "place_hold", "put_aside"),
        parameters={"call_number": ("book_mark", "signature"), "card_number": ("reader_id", "card"),
                    "pickup_branch": ("branch", "fetch_at")},
    ),
)  # fmt: skip

CHAINS = (
    Chain(
        docket_number,
        docket_entries,
        feeds="docket",
        queries=(
            "How many {kind} are on the docket of {plaintiff} against {defendant}, filed in {year_filed}?",
            "Find the {year_filed} case {plaintiff} v. {defendant} and count all the entries of its docket.",
            "{plaintiff} sued {defendant} at the {court} in {year_filed}. Number of {kind}?",
        ),
        between=("That is the docket {given}.", "The case is {given}; I count its entries."),
        answers=("Docket {given} has {entries} of them.", "There are {entries}."),
    ),
    Chain(
        hearing_schedule,
        judge_caseload,
        feeds="judge_name",
        takes="judge",
        queries=(
            "Who hears the case {case_reference} next, and how many cases did that judge have in {year}?",
            "Caseload in {year} of the judge in {case_reference}",
            Query("I want to know how many cases from {year} are still open with the judge of {case_reference}.",
                  fixed={"open_only": True}),
        ),
        between=("The judge is {given}.", "{given} hears it. Now the caseload."),
        answers=("Judge {given} had {result} cases.", "{result}, for judge {given}."),
    ),
    Chain(
        patent_filing_date,
        patent_expiry,
        feeds="filing_date",
        queries=(
            "Until when is {patent_number} in force?",
            "When was {patent_number} filed, and when does it end? The term was extended by {extension_days} days.",
            "{patent_number}: expiry date",
        ),
        between=("It was filed on {given}.", "Filing date: {given}."),
        answers=("Filed on {given}, it expires on {result}.", "It is in force until {result}."),
    ),
    Chain(
        votes_cast,
        turnout_percent,
        feeds="ballots",
        queries=(
            "What was the turnout in {district} on {election_day}, with {registered_voters} registered voters?",
            "{district} had {registered_voters} voters on {election_day}. Look up the ballots and give me the turnout.",
            "turnout: {district}, {election_day}, {registered_voters} on the rolls, {invalid_ballots} ballots invalid",
        ),
        between=("There were {given} ballots.", "{given} ballots were cast."),
        answers=("With {given} ballots the turnout was {result}%.", "It was {result} percent."),
    ),
    Chain(
        shelf_mark,
        hold_book,
        feeds="call_number",
        queries=(
            'Please have "{book_title}" held for me. My library card is {card_number}.',
            "Find {book_title} by {author} in the library and reserve it for card {card_number} at {pickup_branch}.",
            "hold: {book_title}; card: {card_number}; branch: {pickup_branch}",
        ),
        between=("The book is {given}.", "Its shelf mark is {given}."),
        answers=("{given} is held for you at {at} (queue: {queue}).", "You can have it in {days} days."),
    ),
)  # fmt: skip
