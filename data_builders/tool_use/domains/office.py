"""Calendar, mail, to-do lists, notes and documents: stand-ins for an office's services, what they return is made up."""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.dialogs.samplers import (
    FIRST_NAMES,
    LAST_NAMES,
    city,
    clock,
    date,
    decimal,
    first_name,
    one_of,
    person,
    several,
    whole,
)
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice


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


TOPICS = (
    "budget",
    "hiring",
    "travel",
    "website",
    "pricing",
    "safety",
    "office move",
    "newsletter",
    "audit",
    "trade fair",
)
KINDS = ("review", "update", "kickoff", "planning", "workshop", "follow-up")
PAPERS = ("sales report", "tax form", "lease contract", "travel plan", "guest list", "invoice for March", "slides")
STEMS = ("minutes", "offer", "handbook", "contract", "survey", "plan", "price_list", "floor_map")
LINES = (
    "two new tires", "ask about the warranty", "a lamp for Nora", "cancel on the 3rd", "blue is sold out",
    "the key is at the neighbor's", "check size 42", "call before noon")  # fmt: skip
TEXTS = (
    "The files are attached.", "I will be ten minutes late.", "Please call me back today.",
    "The draft is ready for you.", "We moved it to next week.", "Thank you for your help!",
    "Can you send me the numbers?", "The printer works again.")  # fmt: skip
title = one_of(*(f"{topic.capitalize()} {kind}" for topic in TOPICS for kind in KINDS))
address = one_of(
    *(f"{a}.{b}@{c}.example".lower() for a in FIRST_NAMES[::3] for b in LAST_NAMES[::4] for c in ("firm", "post"))
)
chore = one_of(
    *(f"{verb} the {paper}" for verb in ("check", "print", "sign", "finish", "send out") for paper in PAPERS)
)
file_name = one_of(
    *(f"{a}_{b}.{c}" for a in STEMS for b in ("2023", "final", "draft2", "spring", "v3") for c in ("md", "rtf", "tex"))
)

TASKS = (
    Task(
        plan_meeting,
        arguments={
            "title": title, "day": date("2025-01-01", "2027-12-31"), "start": clock(),
            "minutes": one_of(15, 20, 45, 50, 60, 75, 90, 120),
            "place": one_of("Cafe Luna", "Room 12", "Room 305", "the library", "Annex B", "Studio 4", "the canteen")},
        queries=(
            'Put "{title}" into my calendar for {day} at {start}.',
            "I need a meeting called '{title}' on {day}, starting {start} and lasting {minutes} minutes.",
            "New calendar entry: {title} / {day} / {start} / place: {place}",
            'We finally agreed to meet in person! {day}, {start}, {place}. It is about "{title}" and should take '
            "{minutes} minutes. Would you enter it?",
        ),
        answers=("Done: event {event_id} ends at {ends} ({place}).", "The meeting is entered as {event_id}."),
        names=("add_calendar_event", "create_appointment", "enter_meeting", "calendar_new_entry"),
        parameters={"title": ("event_title", "topic"), "day": ("event_date",), "start": ("start_time", "begins_at"),
                    "minutes": ("length_minutes",), "place": ("location", "room")},
    ),
    Task(
        mail_address_of,
        arguments={"full_name": person()},
        queries=(
            "What is {full_name}'s e-mail address?",
            "Look up the address of {full_name}, please.",
            "I have to reach {full_name} by mail but I lost the address. Can you find it in my contacts?",
            Query("E-mail of {full_name}, the private one, not the one from work.", fixed={"private": True}),
            Query("At which private address can I write to {full_name}?", fixed={"private": True}),
        ),
        answers=("The address is {result}.", "You find them at {result}."),
        names=("lookup_contact_email", "contact_mail", "address_book_search", "email_for_person"),
        parameters={"full_name": ("contact_name", "who"), "private": ("personal_address",)},
    ),
    Task(
        write_mail,
        arguments={"recipient": address, "subject": title, "body": one_of(*TEXTS)},
        queries=(
            'Send a mail to {recipient} with the subject "{subject}" that says: "{body}"',
            "mail {recipient}, subject {subject}, no text needed",
            Query("This one is urgent: write to {recipient}, subject '{subject}', text '{body}'",
                  fixed={"high_priority": True}),
            'Could you drop {recipient} a line? The subject should be {subject} and the text just "{body}"',
        ),
        answers=("The mail is out (message {message_id}).", "Your mail was {status}; its number is {message_id}."),
        names=("deliver_email", "compose_and_send", "mail_out", "send_message_to"),
        parameters={"recipient": ("to", "to_address"), "subject": ("subject_line",), "body": ("text", "content"),
                    "high_priority": ("urgent",)},
    ),
    Task(
        add_to_do,
        arguments={"item": chore, "due_date": date("2025-01-01", "2027-12-31"),
                   "importance": one_of("low", "medium", "high")},
        queries=(
            'Add "{item}" to my to-do list, due {due_date}.',
            "By {due_date} I have to {item}. Note that down as a task with {importance} importance.",
            "todo: {item}; due: {due_date}; importance: {importance}",
            "Please remember for me that I must {item} until {due_date}.",
        ),
        answers=("It is number {number} on your list, due on a {weekday}.", "Noted as item {number}."),
        names=("create_todo", "new_task_entry", "remember_task"),
        parameters={"item": ("task", "description"), "due_date": ("deadline",), "importance": ("priority", "level")},
    ),
    Task(
        earliest_common_day,
        arguments={"colleagues": several(first_name(), 2, 4), "not_before": date("2025-01-01", "2027-06-30")},
        queries=(
            "When do {colleagues} all have time, from {not_before} on?",
            "Find the first day after or on {not_before} that suits {colleagues}.",
            Query("We plan a full-day retreat with {colleagues}, {not_before} at the earliest. Which day works?",
                  fixed={"full_day": True}),
            "Common free day wanted. People: {colleagues}. Not before: {not_before}.",
        ),
        answers=("All of them are free on {result}.", "The first day that suits everybody is {result}."),
        names=("first_day_all_free", "match_calendars", "common_free_date"),
        parameters={"colleagues": ("participants", "team"), "not_before": ("from_date", "search_from")},
    ),
    Task(
        find_note,
        arguments={
            "keywords": several(one_of("budget", "hotel", "paint", "visa", "router", "garden", "recipe", "rent"), 1, 3),
            "notebook": one_of("Travel", "Work 2024", "Private", "House", "Projects", "Ideas")},
        queries=(
            "Search my notes for {keywords}.",
            "In which note did I write about {keywords}?",
            'Look through the notebook "{notebook}" for a note with {keywords}',
            "I wrote it down somewhere in {notebook}, my notebook... it must contain {keywords}. Which note is it?",
        ),
        answers=('The best match is "{best_match}" ({hits} hits).', 'I found {hits}; the closest is "{best_match}".'),
        names=("search_notes", "note_lookup", "query_notebook"),
        parameters={"keywords": ("words", "search_terms"), "notebook": ("notebook_name", "folder")},
    ),
    Task(
        append_to_note,
        arguments={
            "note_title": one_of("Shopping", "Gift ideas", "Books to read", "House rules", "Questions for the doctor",
            "Packing list", "Bike repairs", "Things to sell", "Wifi and codes"), "added_text": one_of(*LINES)},
        queries=(
            'Add "{added_text}" to my note "{note_title}".',
            "Write {added_text} at the bottom of the note called {note_title}",
            "Oh, one more for my note '{note_title}': {added_text}",
            "note: {note_title} | new line: {added_text}",
        ),
        answers=("The note is {status}; it has {lines} lines now.", "Added as line {lines}."),
        names=("add_line_to_note", "extend_note", "note_append"),
        parameters={"note_title": ("note", "name_of_note"), "added_text": ("line", "new_text")},
    ),
    Task(
        convert_document,
        arguments={"file_name": file_name, "target_format": one_of("pdf", "docx", "odt", "html", "txt")},
        queries=(
            "Convert {file_name} to {target_format}.",
            "I need {file_name} as {target_format}, please.",
            "My colleague cannot open {file_name}. Can you turn it into {target_format} for her?",
            "file: {file_name}, wanted: {target_format}",
        ),
        answers=("The new file is {result}.", "Converted: {result}"),
        names=("change_file_format", "export_document", "transform_file"),
        parameters={"file_name": ("source_file", "document_name"), "target_format": ("output_format", "extension")},
        slips={"target_format": (("Word", "docx"), ("plain text", "txt"), ("web page", "html"))},
    ),
    Task(
        grant_access,
        arguments={"document": file_name, "people": several(first_name(), 1, 4),
                   "right": one_of(("view", "view"), ("comment", "comment on"), ("edit", "edit"))},
        queries=(
            "Share {document} with {people}.",
            "Let {people} {right} the document {document}.",
            "{people} should be able to {right} {document}. Please set that up.",
            "Please give these people access to {document}: {people}",
        ),
        answers=("Shared with {shared_with} ({right}): {link}", "Done. They can {right} it at {link}."),
        names=("share_file_with", "add_collaborators", "give_permission"),
        parameters={"document": ("doc", "shared_file"), "people": ("users", "names"), "right": ("permission", "role")},
    ),
    Task(
        hold_meeting_room,
        arguments={"office": city(), "seats": whole(3, 40)},
        queries=(
            "I need a meeting room for {seats} people in our {office} office.",
            "Reserve a room in {office} with {seats} seats",
            Query("Book us a room with a projector in {office}; we will be {seats}.", fixed={"projector": True}),
            "{seats} of us meet in {office} tomorrow. Is there a room? Please take one, without anything special.",
        ),
        answers=("I reserved {result}.", "You have {result}."),
        names=("book_meeting_room", "take_room", "find_and_hold_room"),
        parameters={"office": ("office_city", "site"), "seats": ("capacity", "number_of_people")},
    ),
    Task(
        set_absence,
        arguments={"first_day": date("2025-01-01", "2025-12-31"), "last_day": date("2026-01-01", "2026-06-30"),
                   "substitute": person()},
        queries=(
            "I am away from {first_day} to {last_day}. Switch on the automatic reply.",
            "Out of office from {first_day} until {last_day}; {substitute} stands in for me.",
            Query("Set an absence note that only colleagues see: {first_day} through {last_day}.",
                  fixed={"inside_only": True}),
            "My parental leave! First day {first_day}, last day {last_day}. People should turn to {substitute}.",
        ),
        answers=("The reply is {status} for {days_away} days.", "Done; you are away for {days_away} days."),
        names=("auto_reply_on", "out_of_office", "announce_absence"),
        parameters={"first_day": ("start_date", "away_from"), "last_day": ("end_date",), "substitute": ("deputy",)},
    ),
    Task(
        cost_of_meeting,
        arguments={"hourly_rates": several(decimal(20, 140), 3, 6), "duration_minutes": whole(20, 180)},
        queries=(
            "What does a {duration_minutes} minute meeting cost if the hourly rates are {hourly_rates}?",
            "We cost {hourly_rates} dollars an hour and sat for {duration_minutes} minutes. How expensive was that?",
            "meeting cost, rates per hour: {hourly_rates}; minutes: {duration_minutes}",
            "Hourly wages at the table: {hourly_rates}. Tell me the price of {duration_minutes} minutes of talk.",
        ),
        answers=("The meeting costs {result}.", "That is {result} in working time."),
        names=("meeting_price", "working_time_cost", "price_of_talk"),
        parameters={"hourly_rates": ("rates", "wages"), "duration_minutes": ("minutes", "meeting_length")},
    ),
)  # fmt: skip

CHAINS = (
    Chain(
        mail_address_of,
        write_mail,
        feeds="recipient",
        queries=(
            'Mail {full_name} with the subject "{subject}" and the text "{body}"',
            "I don't have the address of {full_name} at hand. Find it and send a mail with the subject {subject}.",
            Query("Urgent mail to {full_name}: subject '{subject}', text '{body}'", fixed={"high_priority": True}),
        ),
        between=("The address is {given}. I send the mail now.", "I found {given}."),
        answers=("Sent to {given} as {message_id}.", "The mail to {given} was {status}."),
    ),
    Chain(
        earliest_common_day,
        add_to_do,
        feeds="due_date",
        queries=(
            "On the first day from {not_before} on when {colleagues} are all free, I have to {item}. List it.",
            "Find the day, not before {not_before}, that suits {colleagues}, and note for that day: {item}",
            "To-do for me: {item}. Importance {importance}. Due on the first common free day of {colleagues} since "
            "{not_before}.",
        ),
        between=("They are all free on {given}.", "That day is {given}; I add the to-do."),
        answers=("It is on your list as number {number}, due {given}.", "Noted for {given}, a {weekday}."),
    ),
    Chain(
        hold_meeting_room,
        plan_meeting,
        feeds="place",
        queries=(
            'Reserve a room for {seats} people in {office} and put "{title}" there into my calendar, {day} at {start}.',
            "We need a room in our {office} office ({seats} seats) for '{title}' on {day}, {start}. Enter that too.",
            "Room: {office}, {seats} persons. Then calendar: {title}, {day}, {start}, {minutes} minutes, in that room.",
        ),
        between=("{given} is yours. Now the calendar.", "I have {given}."),
        answers=("The meeting is in {given} and ends at {ends}.", "Entered as {event_id}, in {given}."),
    ),
    Chain(
        find_note,
        append_to_note,
        feeds="note_title",
        takes="best_match",
        queries=(
            'Find my note about {keywords} and add "{added_text}" to it.',
            "Somewhere in the notebook {notebook} is a note with {keywords}. Write this at its end: {added_text}",
            "Which note has {keywords} in it? Append '{added_text}' there, please.",
        ),
        between=('The note is "{given}".', 'I found "{given}" and add the line.'),
        answers=('Added to "{given}", which has {lines} lines now.', '"{given}" is {status}.'),
    ),
    Chain(
        convert_document,
        grant_access,
        feeds="document",
        queries=(
            "Convert {file_name} to {target_format} and share the new file with {people}.",
            "{people} want {file_name} as {target_format}. Convert it and let them {right} the result.",
            "First turn {file_name} into {target_format}, then give {people} access to what comes out.",
        ),
        between=("The new file is {given}.", "Converted to {given}; now I share it."),
        answers=("{given} is shared with {shared_with}: {link}", "They can {right} {given} now: {link}"),
    ),
)  # fmt: skip
