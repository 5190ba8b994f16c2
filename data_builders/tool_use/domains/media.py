"""Music, films, books, podcasts, games and museums: stand-ins for services; works, people and answers are made up."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice
from data_builders.tool_use.names import FIRST_NAMES, LAST_NAMES

SONGS = tuple(
    f"{a} {b}" for a in ("Paper", "Midnight", "Velvet", "Broken", "Summer") for b in ("Moon", "Train", "Rain")
)
FILMS = tuple(f"The {a} {b}" for a in ("Last", "Hollow", "Glass", "Seventh") for b in ("Orchard", "Witness", "Station"))
BOOKS = tuple(
    f"{a} of {b}" for a in ("A House", "The Book", "Letters", "Rivers") for b in ("Salt", "Ash", "Small Hours")
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
