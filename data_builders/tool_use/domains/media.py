"""Music, films, books, podcasts, games and museums: stand-ins for services; works, people and answers are made up."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.dialogs.samplers import FIRST_NAMES, LAST_NAMES, city, date, one_of, person, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice

SONGS = tuple(
    f"{a} {b}" for a in ("Paper", "Midnight", "Velvet", "Broken", "Summer") for b in ("Moon", "Train", "Rain")
)
BANDS = tuple(f"{a} {b}" for a in ("The Quiet", "Neon", "Northern", "Silver") for b in ("Foxes", "Harbor", "Parade"))
FILMS = tuple(f"The {a} {b}" for a in ("Last", "Hollow", "Glass", "Seventh") for b in ("Orchard", "Witness", "Station"))
BOOKS = tuple(
    f"{a} of {b}" for a in ("A House", "The Book", "Letters", "Rivers") for b in ("Salt", "Ash", "Small Hours")
)
GAMES = tuple(
    f"{a} {b}" for a in ("Iron", "Star", "Ember", "Pixel") for b in ("Valley", "Drifters", "Siege", "Kingdom")
)
PAINTINGS = tuple(
    f"{a} with {b}" for a in ("Woman", "Still Life", "Landscape") for b in ("Lemons", "Red Boat", "Heron")
)
MUSEUMS = ("Harbor Museum", "Museum of Light", "Old Mint Gallery", "Hall of Portraits", "Museum of Quiet Things")


def song_profile(song: str, artist: str) -> dict:
    """Musical key and tempo of a recording.

    Args:
        song: Title of the song.
        artist: Who plays it.
    """
    keys = ("C major", "A minor", "E minor", "G major", "B-flat major", "F-sharp minor")
    return {"key": made_up_choice(keys, song, artist), "bpm": made_up(62, 178, song, artist)}


def create_playlist(playlist: str, tracks: list[str], shuffle: bool = False) -> dict:
    """Make a playlist from songs.

    Args:
        playlist: Name for the playlist.
        tracks: Titles, in playing order.
        shuffle: Whether it is played in random order.
    """
    minutes = sum(made_up(3, 6, track) for track in tracks)
    return {"playlist_id": f"PL{made_up(1000, 9999, playlist, shuffle)}", "minutes": minutes}


def audio_megabytes(length_minutes: float, kbps: int = 192) -> float:
    """Size of compressed audio.

    Args:
        length_minutes: Playing time in minutes.
        kbps: Bit rate in kilobits per second. Default is 192.
    """
    return round(length_minutes * 60 * kbps / 8 / 1000, 2)


def next_concert(band: str, town: str, after: str) -> dict:
    """Find the next concert of a band in a town.

    Args:
        band: Name of the band.
        town: City where it should play.
        after: Only concerts after this date (YYYY-MM-DD).
    """
    venue = f"{town} {made_up_choice(('Arena', 'Old Theater', 'Docks', 'Palladium'), band, town)}"
    return {"venue": venue, "days_later": made_up(2, 120, band, town, after)}


def concert_ticket(venue: str, area: Literal["standing", "stalls", "balcony", "box"], tickets: int = 1) -> float:
    """Price of concert tickets in dollars.

    Args:
        venue: The concert hall.
        area: Part of the hall.
        tickets: Number of tickets. Defaults to 1.
    """
    return made_up(25, 160, venue, area) * tickets


def crew_member(film: str, role: Literal["director", "composer", "editor", "cinematographer"]) -> str:
    """Name of the person who did a job on a film.

    Args:
        film: Title of the film.
        role: The job.
    """
    return f"{made_up_choice(FIRST_NAMES, film, role)} {made_up_choice(LAST_NAMES, role, film)}"


def best_known_work(person_name: str, kind: str = "film") -> str:
    """The work that a person is best known for.

    Args:
        person_name: First and last name.
        kind: Kind of work: film, book, album or painting. Default is film.
    """
    works = {"film": FILMS, "book": BOOKS, "album": SONGS, "painting": PAINTINGS}
    if kind not in works:
        raise ValueError(f"kind {kind!r} is not known, it must be one of {', '.join(works)}")
    return made_up_choice(works[kind], person_name)


def screening(film_title: str, cinema: str, day: str, original_language: bool = False) -> dict:
    """When and where in a cinema a film is shown.

    Args:
        film_title: Title of the film.
        cinema: Name of the cinema.
        day: Day of the show, YYYY-MM-DD.
        original_language: Only shows that are not dubbed.
    """
    starts = f"{made_up(14, 22, film_title, day, original_language)}:{made_up_choice(('00', '15', '40'), cinema, day)}"
    return {"hall": made_up(1, 9, film_title, cinema), "starts": starts}


def library_copy(book_title: str, branch: str, language: Literal["en", "fr", "es", "de"] = "en") -> dict:
    """Look for a book in a branch of the city library.

    Args:
        book_title: Title of the book.
        branch: Name of the branch.
        language: Language code of the edition. Default is en.
    """
    copies = made_up(0, 5, book_title, branch, language)
    return {"copies": copies, "shelf": f"{made_up_choice('ABCDE', book_title)}{made_up(10, 89, book_title)}"}


def volume_title(series: str, volume: int) -> str:
    """Title of one volume of a book series.

    Args:
        series: Name of the series.
        volume: Number of the volume, counted from 1.
    """
    return made_up_choice(BOOKS, series, volume)


def player_rating(game: str, platform: Literal["pc", "switch", "playstation", "xbox"], verified: bool = False) -> float:
    """Average rating that players give a game, from 0 to 10.

    Args:
        game: Name of the game.
        platform: What it is played on.
        verified: Count only players who bought the game.
    """
    return made_up(31, 97, game, platform, verified) / 10


def painting_museum(painting: str, painter: str) -> str:
    """The museum in which a painting hangs.

    Args:
        painting: Title of the painting.
        painter: Who painted it.
    """
    return made_up_choice(MUSEUMS, painting, painter)


def museum_admission(museum: str, adults: int, children: int = 0) -> float:
    """Total admission to a museum in euros.

    Args:
        museum: Name of the museum.
        adults: Number of grown-up visitors.
        children: Number of visitors under 16, who pay half. Default is 0.
    """
    return round(made_up(12, 44, museum) / 2 * (adults + children / 2), 2)


TASKS = (
    Task(
        song_profile,
        arguments={"song": one_of(*SONGS), "artist": one_of(*BANDS)},
        queries=(
            'What key and tempo is "{song}" by {artist} in?',
            "I want to mix {song} by {artist} into my set. Key and BPM, please.",
            "{artist} - {song}: key? tempo?",
            "Our band is covering a song of {artist}, it's called {song}. Which key do they play it in?",
        ),
        answers=("It is in {key} at {bpm} beats per minute.", "Key: {key}, tempo: {bpm}."),
        names=("track_key_and_tempo", "analyze_song", "recording_info"),
        parameters={"song": ("title", "track"), "artist": ("band", "performer")},
    ),
    Task(
        create_playlist,
        arguments={
            "playlist": one_of("Road Trip", "Sunday Cleaning", "Deep Focus", "Dad's 60th", "Leg Day", "Rainy Evening"),
            "tracks": several(one_of(*SONGS), 2, 5),
        },
        queries=(
            "Make a playlist called {playlist} with {tracks}.",
            Query("Put {tracks} into a new playlist {playlist} and shuffle it.", {"shuffle": True}),
            "new playlist: {playlist}\nsongs: {tracks}",
            "Could you collect {tracks} for me? Name the list {playlist}, please.",
        ),
        answers=("Playlist {playlist_id} is ready, {minutes} minutes long.", "Done: {playlist_id}, {minutes} minutes."),
        names=("build_playlist", "new_playlist", "save_song_list"),
        parameters={"playlist": ("name", "playlist_name"), "tracks": ("songs", "titles"), "shuffle": ("random_order",)},
    ),
    Task(
        audio_megabytes,
        arguments={"length_minutes": whole(2, 180), "kbps": one_of(96, 128, 256, 320)},
        queries=(
            "How many megabytes are {length_minutes} minutes of audio at {kbps} kbps?",
            "I recorded an interview of {length_minutes} minutes. How big will the compressed file be?",
            "file size: {length_minutes} min, {kbps} kbit/s",
            "Will it fit? I want to export {length_minutes} minutes at {kbps} kilobits per second. Size in MB?",
        ),
        answers=("The file takes {result} MB.", "That is {result} megabytes."),
        names=("compressed_audio_size", "estimate_file_size", "recording_size_mb"),
        parameters={"length_minutes": ("duration", "minutes"), "kbps": ("bitrate", "bit_rate")},
    ),
    Task(
        next_concert,
        arguments={"band": one_of(*BANDS), "town": city(), "after": date()},
        queries=(
            "When will {band} next play in {town} after {after}?",
            "I'm moving to {town} on {after}. Are {band} giving a concert there after that?",
            "{band} live in {town}, later than {after}",
            "My sister adores {band}. Please look for their next concert in {town} after {after}.",
        ),
        answers=("They play at {venue}, {days_later} days later.", "{venue}, {days_later} days after that date."),
        names=("find_gig", "upcoming_show", "concert_lookup"),
        parameters={"band": ("artist", "group"), "town": ("city",), "after": ("from_date", "since")},
    ),
    Task(
        concert_ticket,
        arguments={
            "venue": one_of("Riverside Hall", "The Foundry", "Opera Garage", "Palais Nord", "Lakeside Bowl"),
            "area": one_of("standing", "stalls", "balcony", "box"),
            "tickets": whole(2, 8),
        },
        queries=(
            "How much is a {area} ticket at {venue}?",
            "We need {tickets} {area} tickets for {venue}. What's the total?",
            "{venue}, {area}, {tickets} tickets: price",
            "I'd like to surprise my wife with a night at {venue}. What does one ticket cost in the {area} area?",
        ),
        answers=("That costs {result} dollars.", "You pay ${result}."),
        names=("ticket_price_at_venue", "gig_ticket_cost", "seat_price"),
        parameters={"venue": ("hall",), "area": ("section", "zone"), "tickets": ("quantity", "count")},
    ),
    Task(
        crew_member,
        arguments={"film": one_of(*FILMS), "role": one_of("director", "composer", "editor", "cinematographer")},
        queries=(
            "Who was the {role} of {film}?",
            'Name the {role} of the film "{film}".',
            "I loved {film} last night! Tell me who worked as its {role}.",
            "{film}, {role}?",
        ),
        answers=("That was {result}.", "It was {result}."),
        names=("film_credit", "who_worked_on", "lookup_crew"),
        parameters={"film": ("title", "movie"), "role": ("job", "position")},
    ),
    Task(
        best_known_work,
        arguments={"person_name": person(), "kind": one_of("film", "book", "album", "painting")},
        queries=(
            "What is the best known {kind} of {person_name}?",
            "Somebody mentioned {person_name} at dinner. Which {kind} is that person famous for?",
            "most famous {kind} by {person_name}",
            "Could you tell me which {kind} made {person_name} famous?",
        ),
        answers=("The best known one is {result}.", "That would be {result}."),
        names=("famous_work_of", "signature_work", "most_popular_work"),
        parameters={"person_name": ("artist", "creator"), "kind": ("work_type", "category")},
        slips={"kind": (("movie", "film"), ("novel", "book"), ("record", "album"))},
    ),
    Task(
        screening,
        arguments={
            "film_title": one_of(*FILMS),
            "cinema": one_of("Astor", "Kino Central", "Rex Palace", "Odeon West", "Filmhaus"),
            "day": date(),
        },
        queries=(
            "At what time is {film_title} on at {cinema} on {day}?",
            Query("We want {film_title} undubbed at {cinema}, {day}. Time and hall?", {"original_language": True}),
            "showtime / {cinema} / {film_title} / {day}",
            "Taking the kids to {cinema} on {day}. When does {film_title} begin?",
        ),
        answers=("It starts at {starts} in hall {hall}.", "Hall {hall}, {starts}."),
        names=("cinema_showtime", "film_show_start", "find_screening"),
        parameters={"film_title": ("film", "movie"), "cinema": ("theater",), "original_language": ("undubbed",)},
    ),
    Task(
        library_copy,
        arguments={
            "book_title": one_of(*BOOKS),
            "branch": one_of("Eastside", "Mill Street", "Central", "Hillcrest", "Old Town"),
            "language": one_of(("fr", "French"), ("es", "Spanish"), ("de", "German")),
        },
        queries=(
            "Does the {branch} branch have {book_title}?",
            "I'm looking for {book_title} in {language} at the {branch} library.",
            "{book_title}, branch {branch}: copies?",
            "Please check whether {branch} has the {language} edition of {book_title}. On which shelf?",
        ),
        answers=("There are {copies} copies on shelf {shelf}.", "Shelf {shelf} holds {copies} copies."),
        names=("find_library_book", "check_branch_catalog", "book_availability"),
        parameters={"book_title": ("title", "book"), "branch": ("library",), "language": ("edition_language",)},
    ),
    Task(
        volume_title,
        arguments={
            "series": one_of("Tides of Ember", "The Lantern Cycle", "Inspector Marlow", "Moss & Bone", "Winterfold"),
            "volume": whole(2, 12),
        },
        queries=(
            "What is volume {volume} of {series} called?",
            "I've lost track of {series}. Title of number {volume}?",
            "{series} #{volume}",
            "My nephew wants part {volume} of the series {series} for his birthday. What's the title?",
        ),
        answers=("It is called {result}.", "The title is {result}."),
        names=("series_volume", "nth_book_in_series", "book_of_series"),
        parameters={"series": ("series_name",), "volume": ("number", "part")},
    ),
    Task(
        player_rating,
        arguments={"game": one_of(*GAMES), "platform": one_of(("pc", "PC"), ("switch", "Switch"), ("xbox", "Xbox"))},
        queries=(
            "How do players rate {game} on {platform}?",
            Query("Rating of {game} on {platform}, verified buyers only.", {"verified": True}),
            "Is {game} any good on {platform}? I need the score before I buy it.",
            "{game} ({platform}) player score",
        ),
        answers=("Players give it {result} out of 10.", "The rating is {result}."),
        names=("game_user_score", "community_score", "average_player_rating"),
        parameters={"game": ("title", "game_name"), "platform": ("system", "console"), "verified": ("buyers_only",)},
    ),
    Task(
        painting_museum,
        arguments={"painting": one_of(*PAINTINGS), "painter": person()},
        queries=(
            "Where does {painting} by {painter} hang?",
            "I'm writing an essay on {painter}. Which museum has the painting {painting}?",
            "location of: {painting} ({painter})",
            "I would love to see {painter}'s {painting} in person. Which museum must I visit?",
        ),
        answers=("It hangs in the {result}.", "You can see it in the {result}."),
        names=("locate_painting", "where_artwork_hangs", "artwork_location"),
        parameters={"painting": ("artwork", "title"), "painter": ("artist",)},
    ),
    Task(
        museum_admission,
        arguments={"museum": one_of(*MUSEUMS), "adults": whole(2, 6), "children": whole(2, 9)},
        queries=(
            "What do {adults} adults pay at the {museum}?",
            "Admission to {museum}: {adults} adults, {children} children",
            "It's raining, so we're off to the {museum}: {adults} grown-ups with {children} kids. What will it cost?",
            "Entrance for {adults} to the {museum}, please.",
        ),
        answers=("Admission is {result} euros.", "You pay {result} euros."),
        names=("museum_ticket_total", "entry_price", "gallery_admission"),
        parameters={"museum": ("place", "museum_name"), "adults": ("grown_ups",), "children": ("kids", "under_16")},
    ),
)

CHAINS = (
    Chain(
        painting_museum,
        museum_admission,
        feeds="museum",
        queries=(
            "Where is {painting} by {painter}, and what do {adults} adults pay to get in?",
            "We are {adults} adults and {children} kids who want to see {painting} by {painter}. What's the admission?",
            "find the museum of {painter}'s {painting}, then price {adults} tickets",
        ),
        between=("It hangs in the {given}. Now the admission.", "The museum is the {given}."),
        answers=("The {given} asks {result} euros.", "It is in the {given}; you pay {result} euros."),
    ),
    Chain(
        next_concert,
        concert_ticket,
        feeds="venue",
        takes="venue",
        queries=(
            "Where do {band} play in {town} after {after}, and what's a {area} ticket there?",
            "Find the next {band} concert in {town} after {after} and price {tickets} {area} tickets.",
            "{tickets} x {area} for {band} in {town}, after {after}. How much?",
        ),
        between=("They play at {given}. Now the tickets.", "The venue is {given}."),
        answers=("At {given} that costs {result} dollars.", "The concert is at {given}; you pay {result} dollars."),
    ),
    Chain(
        volume_title,
        library_copy,
        feeds="book_title",
        queries=(
            "Is volume {volume} of {series} available at the {branch} branch?",
            "Find out the title of number {volume} of {series} and look for it in {language} at {branch}.",
            "{series} part {volume}: does the {branch} library have it?",
        ),
        between=("That volume is {given}. Let me check the library.", "The title is {given}."),
        answers=("{given} is on shelf {shelf}, {copies} copies.", "There are {copies} copies of {given}."),
    ),
    Chain(
        crew_member,
        best_known_work,
        feeds="person_name",
        queries=(
            "What is the most famous {kind} by the {role} of {film}?",
            "Who was the {role} of {film}, and for which {kind} is that person known?",
            "{film}: find its {role}, then that person's best known {kind}",
        ),
        between=("The person is {given}.", "That was {given}. Now the best known work."),
        answers=("{given} is best known for {result}.", "It was {given}, known for {result}."),
    ),
    Chain(
        create_playlist,
        audio_megabytes,
        feeds="length_minutes",
        takes="minutes",
        queries=(
            "Make a playlist {playlist} of {tracks} and tell me its size at {kbps} kbps.",
            "Put {tracks} into {playlist}. How many MB will it be to download?",
            "playlist {playlist}: {tracks}. Size with {kbps} kbps?",
        ),
        between=("The playlist runs {given} minutes.", "Done, {given} minutes long. Now the size."),
        answers=("Its {given} minutes take {result} MB.", "The download is {result} MB."),
    ),
)
