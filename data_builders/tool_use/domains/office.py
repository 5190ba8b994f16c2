"""Calendar, mail, to-do lists, notes and documents: stand-ins for an office's services, what they return is made up."""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice


def plan_meeting(title: str, day: str, start: str, minutes: int = 30, place: str = "online") -> dict:
    """Put a meeting into the calendar.

    Args:
        title: Title of the meeting.
        day: Day of the meeting as YYYY-MM-DD.
        start: Time at which it starts, HH:MM on a 24 hour clock.
        minutes: How long it lasts. Default is 30.
        place: Room or other place, such as "Room 4". Default is "online".
    """
    end = int(start[:2]) * 60 + int(start[3:]) + minutes
    ends = f"{end // 60 % 24:02d}:{end % 60:02d}"
    return {"event_id": f"EV-{made_up(10000, 99999, title, day, start)}", "ends": ends, "place": place}


def mail_address_of(full_name: str, private: bool = False) -> str:
    """Look up somebody's e-mail address in the address book.

    Args:
        full_name: First and last name of the contact.
        private: True for the private address instead of the one at work.
    """
    host = made_up_choice(("home.example", "mailbox.example"), full_name) if private else "work.example"
    return f"{full_name.lower().replace(' ', '.')}@{host}"


def write_mail(recipient: str, subject: str, body: str = "", high_priority: bool = False) -> dict:
    """Send a mail to one person.

    Args:
        recipient: E-mail address that the mail goes to.
        subject: The subject line.
        body: Text of the mail; empty for a mail that is a subject only.
        high_priority: Whether the mail is flagged as urgent.
    """
    if "@" not in recipient:
        raise ValueError(f"recipient {recipient!r} is not an e-mail address; write name@host")
    return {"status": "sent", "message_id": f"M{made_up(100000, 999999, recipient, subject, body)}"}


def add_to_do(item: str, due_date: str, importance: Literal["low", "medium", "high"] = "medium") -> dict:
    """Put something on the to-do list.

    Args:
        item: What is to be done, in a few words.
        due_date: The day by which it is to be done (YYYY-MM-DD).
        importance: How important it is.
    """
    return {"number": made_up(1, 60, item, due_date), "weekday": f"{Date.fromisoformat(due_date):%A}"}


def earliest_common_day(colleagues: list[str], not_before: str, full_day: bool = False) -> str:
    """First working day on which all of some colleagues have time.

    Args:
        colleagues: Names of the people who must be free.
        not_before: Day from which on to look, YYYY-MM-DD.
        full_day: Whether they must be free the whole day, not just for an hour.
    """
    days = made_up(0, 12, sorted(colleagues), not_before, full_day)
    day = Date.fromisoformat(not_before) + timedelta(days=days)
    return (day + timedelta(days=max(0, 7 - day.weekday()) if day.weekday() > 4 else 0)).isoformat()


def find_note(keywords: list[str], notebook: str = "all") -> dict:
    """Search the notes for words.

    Args:
        keywords: Words that the note must contain, e.g. ["budget", "hotel"].
        notebook: Name of the notebook to search in; "all" searches each of them.
    """
    title = f"{made_up_choice(('Notes', 'Ideas', 'Draft', 'Minutes', 'List'), keywords, notebook)} on {keywords[0]}"
    return {"hits": made_up(1, 9, keywords, notebook), "best_match": title}


def append_to_note(note_title: str, added_text: str) -> dict:
    """Add a line at the end of a note.

    Args:
        note_title: Exact title of the note.
        added_text: The line to be added.
    """
    return {"status": "saved", "lines": made_up(3, 80, note_title, added_text)}


def convert_document(file_name: str, target_format: str) -> str:
    """Convert a document to another format; gives the new file's name.

    Args:
        file_name: Name of the file with its extension.
        target_format: Extension of the new format: pdf, docx, odt, html or txt.
    """
    if target_format not in ("pdf", "docx", "odt", "html", "txt"):
        raise ValueError(f"target_format {target_format!r} is not known; use one of pdf, docx, odt, html, txt")
    return f"{file_name.rsplit('.', 1)[0]}.{target_format}"


def grant_access(document: str, people: list[str], right: Literal["view", "comment", "edit"] = "view") -> dict:
    """Share a document with people.

    Args:
        document: File name of the document.
        people: First names or full names of those who get access.
        right: What they may do with it.
    """
    return {"shared_with": len(people), "right": right, "link": f"doc.example/{made_up(1000, 9999, document)}"}


def hold_meeting_room(office: str, seats: int, projector: bool = False) -> str:
    """Reserve the smallest free meeting room of an office that is large enough.

    Args:
        office: City of the office.
        seats: Number of people who must find a seat.
        projector: Whether the room needs a projector.
    """
    return f"Room {made_up_choice('ABCDEFG', office)}{made_up(1, 40, office, seats, projector)}"


def set_absence(first_day: str, last_day: str, substitute: str = "", inside_only: bool = False) -> dict:
    """Switch on an automatic reply for the days of an absence.

    Args:
        first_day: First day away, as YYYY-MM-DD.
        last_day: Last day away, as YYYY-MM-DD.
        substitute: Who stands in meanwhile.
        inside_only: True if only colleagues get the reply, and nobody outside the company.
    """
    away = (Date.fromisoformat(last_day) - Date.fromisoformat(first_day)).days + 1
    if away < 1:
        raise ValueError("last_day lies before first_day; give the earlier day as first_day")
    return {"status": "on", "days_away": away}


def cost_of_meeting(hourly_rates: list[float], duration_minutes: int) -> float:
    """What a meeting costs in working time.

    Args:
        hourly_rates: What an hour of each participant costs, one number for each of them.
        duration_minutes: Length of the meeting in minutes.
    """
    return round(sum(hourly_rates) * duration_minutes / 60, 2)
