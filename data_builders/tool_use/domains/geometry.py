"""Shapes, slopes, maps and what fits where. `parcel_size` simulates a land registry: its results are made up."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Literal

from data_builders.tool_use.made_up import made_up


def ladder_reach(ladder_length: float, foot_distance: float) -> float:
    """How high up a wall a leaning ladder reaches.

    Args:
        ladder_length: Length of the ladder in meters.
        foot_distance: Distance from the wall to the foot of the ladder, in meters.
    """
    if foot_distance >= ladder_length:
        raise ValueError("foot_distance must be smaller than ladder_length")
    return round(math.sqrt(ladder_length**2 - foot_distance**2), 3)


def wall_surface(walls: list[float], ceiling_height: float, openings: float = 0) -> float:
    """Square meters of wall in a room, without its doors and windows.

    Args:
        walls: Length of each wall in meters.
        ceiling_height: Height of the room in meters.
        openings: Area of doors and windows in square meters. Default is 0.
    """
    return round(max(sum(walls) * ceiling_height - openings, 0), 2)


def tins_for_surface(surface: float, tin_liters: float, coats: int = 1) -> int:
    """Number of paint tins for a surface; a liter covers ten square meters.

    Args:
        surface: Area to paint, in square meters.
        tin_liters: Content of one tin in liters.
        coats: How often everything is painted. Default is 1.
    """
    return math.ceil(round(surface * coats / 10 / tin_liters, 6))


def field_boundary(sides: list[float]) -> float:
    """Length of the boundary of a piece of land.

    Args:
        sides: Lengths of all its sides, in meters.
    """
    return round(sum(sides), 2)


def fence_posts(fence_length: float, spacing: float, closed: bool = True) -> int:
    """Count the posts that a fence needs.

    Args:
        fence_length: Total length in meters.
        spacing: Largest distance between two posts, in meters.
        closed: Whether the fence ends where it begins. Default is true.
    """
    return math.ceil(round(fence_length / spacing, 6)) + (0 if closed else 1)


def heap_volume(shape: Literal["cone", "pyramid", "ridge"], base_width: float, heap_height: float) -> float:
    """Volume in cubic meters of a heap of loose material.

    Args:
        shape: Form of the heap; a pyramid has a square base, a ridge is as long as it is wide.
        base_width: Width (or diameter) of the base, in m.
        heap_height: Height of the top, in m.
    """
    share = {"cone": math.pi / 12, "pyramid": 1 / 3, "ridge": 1 / 2}[shape]
    return round(share * base_width**2 * heap_height, 3)


def polygon_corner_angle(polygon: str, exterior: bool = False) -> float:
    """Angle in degrees at each corner of a regular polygon.

    Args:
        polygon: Name of the polygon, such as pentagon.
        exterior: Give the exterior angle in place of the interior one.
    """
    names = ("pentagon", "hexagon", "heptagon", "octagon", "nonagon", "decagon", "dodecagon")
    if polygon not in names:
        raise ValueError(f"polygon {polygon!r} is not known; use one of {', '.join(names)}")
    outer = 360 / (5, 6, 7, 8, 9, 10, 12)[names.index(polygon)]
    return round(outer if exterior else 180 - outer, 2)


def map_to_ground(map_cm: float, scale: str) -> float:
    """Kilometers on the ground for a distance measured on a map.

    Args:
        map_cm: Distance on the map in centimeters.
        scale: Scale of the map, such as 1:25000.
    """
    left, _, right = scale.partition(":")
    if left != "1" or not right.isdigit():
        raise ValueError(f"scale {scale!r} is not understood; it must look like 1:25000")
    return round(map_cm * int(right) / 100_000, 3)


def steps_for_route(route_km: float, stride_cm: float = 75) -> int:
    """Steps that somebody takes on a walk.

    Args:
        route_km: Length of the walk in kilometers.
        stride_cm: Length of one step in centimeters. Default is 75.
    """
    return round(route_km * 100_000 / stride_cm)


def cartons_that_fit(inside: list[float], carton: list[float], upright: bool = False) -> int:
    """How many equal cartons fit into a box, all turned the same way.

    Args:
        inside: Inner length, width and height of the box.
        carton: Length, width and height of one carton, in the same unit.
        upright: Whether the cartons' height must stay vertical.
    """
    if len(inside) != 3 or len(carton) != 3:
        raise ValueError("inside and carton take three numbers each: length, width, height")
    turns = [turn for turn in permutations(carton) if not upright or turn[2] == carton[2]]
    return max(math.prod(int(space // size) for space, size in zip(inside, turn, strict=True)) for turn in turns)


def mirror_point(x: float, y: float, mirror: Literal["x-axis", "y-axis", "origin", "diagonal"]) -> dict:
    """Reflect a point of the plane.

    Args:
        x: Horizontal coordinate.
        y: Vertical coordinate.
        mirror: What the point is reflected in; diagonal is the line y = x.
    """
    new_x, new_y = {"x-axis": (x, -y), "y-axis": (-x, y), "origin": (-x, -y), "diagonal": (y, x)}[mirror]
    return {"new_x": new_x, "new_y": new_y}


def parcel_size(street_address: str, town: str) -> int:
    """Look up the area of a plot of land in square meters.

    Args:
        street_address: House number and street.
        town: Town or city of the plot.
    """
    return made_up(240, 3600, "parcel", street_address.lower(), town.lower())


def square_side(plot_area: float) -> float:
    """Side of the square that has a given area.

    Args:
        plot_area: Area of the square.
    """
    return round(math.sqrt(plot_area), 3)
