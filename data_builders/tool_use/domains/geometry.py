"""Shapes, slopes, maps and what fits where. `parcel_size` stands in for a land registry: its results are made up."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Literal

from data_builders.tool_use.dialogs.samplers import city, decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up


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


STREETS = ("Mill Lane", "Harbor Road", "Cedar Street", "Station Avenue", "Rue Pasteur", "Orchard Way", "Via Roma",
           "King Street", "Lindenweg", "Elm Court", "Chapel Hill", "Market Square")  # fmt: skip
ADDRESSES = one_of(*(f"{number} {street}" for street in STREETS for number in (3, 12, 47, 88, 105, 219)))

TASKS = (
    Task(
        ladder_reach,
        arguments={"ladder_length": decimal(3.5, 12), "foot_distance": decimal(0.5, 2.5)},
        queries=(
            "How far up the wall does a {ladder_length} m ladder get if its foot stands {foot_distance} m away?",
            "ladder: {ladder_length} m, foot {foot_distance} m from the wall. height?",
            "I need to clean the gutter. I put the ladder {foot_distance} meters from the house, and it is "
            "{ladder_length} meters long. What height will its top touch?",
            "Please work out the reach of my {ladder_length}-meter ladder with the base {foot_distance} m out.",
        ),
        answers=("The ladder reaches {result} m up the wall.", "Its top touches the wall at {result} meters."),
        names=("leaning_ladder_height", "get_ladder_height", "ladder_top"),
        parameters={"ladder_length": ("length", "ladder_m"), "foot_distance": ("base_offset", "distance_from_wall")},
    ),
    Task(
        wall_surface,
        arguments={
            "walls": several(decimal(2, 9), 3, 6),
            "ceiling_height": decimal(2.2, 4),
            "openings": decimal(1, 6),
        },
        queries=(
            "The walls of my study are {walls} meters long and {ceiling_height} m high. How much wall is that?",
            "Room: walls of {walls} m, ceiling at {ceiling_height} m, {openings} square meters of doors and windows: "
            "wall area, please.",
            "I'm wallpapering. Walls: {walls} m. Height: {ceiling_height} m. What surface do I have to cover?",
            "Take off {openings} m² for the windows and tell me the wall surface of a room {ceiling_height} m high "
            "whose walls measure {walls} m.",
        ),
        answers=("There are {result} square meters of wall.", "The wall surface comes to {result} m²."),
        names=("room_wall_area", "get_wall_area", "area_of_walls"),
        parameters={
            "walls": ("wall_lengths",),
            "ceiling_height": ("height", "room_height"),
            "openings": ("gaps_area",),
        },
    ),
    Task(
        tins_for_surface,
        arguments={"surface": whole(15, 240), "tin_liters": one_of(0.75, 1, 2.5, 5, 10), "coats": one_of(2, 3, 4)},
        queries=(
            "How many {tin_liters} liter tins of paint do I have to buy for {surface} square meters?",
            "We're giving {surface} m² of wall {coats} coats. The paint comes in {tin_liters} l tins. How many tins?",
            "{surface} m², {coats} coats, {tin_liters}-liter tins -> number of tins?",
            "Could you tell me how many tins holding {tin_liters} liters each are enough to paint {surface} m²?",
        ),
        answers=("You need {result} tins.", "Tins of paint to buy: {result}."),
        names=("paint_tins_needed", "count_paint_cans", "paint_requirement"),
        parameters={
            "surface": ("area", "area_m2"),
            "tin_liters": ("can_size",),
            "coats": ("layers", "number_of_coats"),
        },
    ),
    Task(
        field_boundary,
        arguments={"sides": several(whole(12, 480), 3, 7)},
        queries=(
            "My field has sides of {sides} meters. How long is its boundary?",
            "How far is it around a pasture with sides {sides} m?",
            "Add up the border of this plot for me: {sides} (meters).",
            "The surveyor measured {sides} m along the edges of our land. What is the total length around it?",
        ),
        answers=("The boundary is {result} meters long.", "It is {result} m all the way around."),
        names=("land_perimeter", "border_length", "sum_of_sides"),
        parameters={"sides": ("side_lengths", "edges")},
    ),
    Task(
        fence_posts,
        arguments={"fence_length": whole(20, 900), "spacing": decimal(1.5, 5)},
        queries=(
            "How many posts for {fence_length} m of fence all around the paddock, at most {spacing} m apart?",
            Query(
                "I want a straight, open fence of {fence_length} m with a post every {spacing} m. Count the posts.",
                fixed={"closed": False},
            ),
            Query("Posts for a closed loop of fence: {fence_length} m, spacing {spacing} m.", fixed={"closed": True}),
            "Fence of {fence_length} meters, posts {spacing} meters apart - how many posts should I order?",
        ),
        answers=("The fence needs {result} posts.", "Order {result} posts."),
        names=("count_fence_posts", "posts_needed", "fencing_post_count"),
        parameters={"fence_length": ("total_length",), "spacing": ("post_gap", "max_gap"), "closed": ("is_loop",)},
    ),
    Task(
        heap_volume,
        arguments={
            "shape": one_of("cone", "pyramid", "ridge"),
            "base_width": decimal(1, 14),
            "heap_height": decimal(0.5, 6),
        },
        queries=(
            "A heap of gravel shaped like a {shape} is {base_width} m wide and {heap_height} m high. Its volume?",
            "How many cubic meters of sand are in a {shape} {heap_height} m tall with a base of {base_width} m?",
            "shape: {shape}, base: {base_width} m, height: {heap_height} m. Volume of the heap?",
            "They dumped soil in my yard. It is a {shape}, about {base_width} meters across and {heap_height} meters "
            "tall. How much is it?",
        ),
        answers=("The heap holds {result} cubic meters.", "That is about {result} m³ of material."),
        names=("pile_volume", "stockpile_volume", "volume_of_heap"),
        parameters={"shape": ("form",), "base_width": ("width", "base_m"), "heap_height": ("height", "peak_height")},
    ),
    Task(
        polygon_corner_angle,
        arguments={"polygon": one_of("pentagon", "hexagon", "heptagon", "octagon", "nonagon", "decagon", "dodecagon")},
        queries=(
            "What is the angle at a corner of a regular {polygon}?",
            Query("Give me the exterior angle of a regular {polygon}.", fixed={"exterior": True}),
            "I'm cutting tiles in the form of a regular {polygon}. Which angle do the corners have?",
            Query("Interior angle, please, not the exterior one: {polygon}", fixed={"exterior": False}),
        ),
        answers=("Each angle is {result} degrees.", "It is {result}°."),
        names=("regular_polygon_angle", "corner_angle", "angle_of_polygon"),
        parameters={"polygon": ("shape_name", "figure"), "exterior": ("outside", "exterior_angle")},
        slips={"polygon": (("six-sided figure", "hexagon"), ("8-gon", "octagon"), ("5-gon", "pentagon"))},
    ),
    Task(
        map_to_ground,
        arguments={
            "map_cm": decimal(1, 40),
            "scale": one_of("1:10000", "1:25000", "1:50000", "1:100000", "1:200000", "1:24000", "1:75000"),
        },
        queries=(
            "On a {scale} map two huts are {map_cm} cm apart. How far is that really?",
            "{map_cm} cm at {scale}: how many km?",
            "The trail measures {map_cm} centimeters on my hiking map, which has a scale of {scale}. Real length?",
            "Convert {map_cm} cm on the map into kilometers on the ground, scale {scale}.",
        ),
        answers=("That is {result} km on the ground.", "The real distance is {result} kilometers."),
        names=("real_distance_from_map", "map_distance_km", "scale_to_reality"),
        parameters={"map_cm": ("distance_on_map", "centimeters"), "scale": ("map_scale",)},
    ),
    Task(
        steps_for_route,
        arguments={"route_km": decimal(1, 25), "stride_cm": whole(55, 95)},
        queries=(
            "How many steps is a walk of {route_km} km?",
            "My steps are {stride_cm} cm long. How many do I make on {route_km} km?",
            "step count for {route_km} km, stride {stride_cm} cm",
            "I walked {route_km} kilometers along the coast today; roughly how many steps was that?",
        ),
        answers=("That makes {result} steps.", "About {result} steps."),
        names=("walk_step_count", "km_to_steps", "estimate_steps"),
        parameters={"route_km": ("distance_km", "walk_length"), "stride_cm": ("step_length",)},
    ),
    Task(
        cartons_that_fit,
        arguments={"inside": several(whole(90, 400), 3, 3), "carton": several(whole(12, 60), 3, 3)},
        queries=(
            "A crate measures {inside} cm inside (length, width, height). How many {carton} cm cartons go in?",
            Query(
                "How many cartons of {carton} cm can I load into a van of {inside} cm if they must stay upright?",
                fixed={"upright": True},
            ),
            "inner size {inside}, carton size {carton}, same unit. how many fit?",
            "We ship cartons with the dimensions {carton} cm. Our container has {inside} cm on the inside. What is the "
            "largest number that fits?",
        ),
        answers=("{result} cartons fit.", "You can load {result} cartons."),
        names=("max_cartons", "packing_count", "boxes_per_container"),
        parameters={"inside": ("container", "inner_size"), "carton": ("carton_size",), "upright": ("this_side_up",)},
    ),
    Task(
        mirror_point,
        arguments={
            "x": whole(-20, 20),
            "y": whole(-20, 20),
            "mirror": one_of(
                ("x-axis", "the x-axis"),
                ("y-axis", "the y-axis"),
                ("origin", "the origin"),
                ("diagonal", "the diagonal"),
            ),
        },
        queries=(
            "Reflect the point ({x}, {y}) in {mirror}.",
            "Where does the point with x = {x} and y = {y} land when mirrored in {mirror}?",
            "My drawing has a dot at {x} across and {y} up. I flip it over {mirror}; what are its new coordinates?",
            "x: {x}, y: {y}, reflected in: {mirror}",
        ),
        answers=("The reflected point is ({new_x}, {new_y}).", "It lands at x = {new_x}, y = {new_y}."),
        names=("reflect_point", "flip_coordinates", "point_reflection"),
        parameters={"x": ("px", "x_coordinate"), "y": ("py", "y_coordinate"), "mirror": ("reflect_in", "line")},
    ),
    Task(
        parcel_size,
        arguments={"street_address": ADDRESSES, "town": city()},
        queries=(
            "How big is the plot at {street_address} in {town}?",
            "Look up the land area of {street_address}, {town}.",
            "We may buy the house at {street_address}. It's in {town}. How many square meters of land belong to it?",
            "Land registry query - town: {town}; address: {street_address}; wanted: size of the plot",
        ),
        answers=("The plot has {result} square meters.", "According to the registry it is {result} m²."),
        names=("land_registry_area", "get_plot_size", "lookup_lot"),
        parameters={"street_address": ("address", "street"), "town": ("city", "municipality")},
    ),
    Task(
        square_side,
        arguments={"plot_area": whole(10, 8000)},
        queries=(
            "What side length does a square of {plot_area} square meters have?",
            "square, area {plot_area}: side?",
            "If I lay out {plot_area} m² as a square garden, how long is each side?",
            "Please find the edge of a square whose area is {plot_area}.",
        ),
        answers=("Each side is {result} long.", "The side measures {result}."),
        names=("side_from_area", "edge_of_square", "square_edge_length"),
        parameters={"plot_area": ("area", "square_area")},
    ),
)

CHAINS = (
    Chain(
        wall_surface,
        tins_for_surface,
        feeds="surface",
        queries=(
            "My room has walls of {walls} m and is {ceiling_height} m high. How many {tin_liters} liter tins of paint?",
            "Walls {walls} m, height {ceiling_height} m, {coats} coats, tins of {tin_liters} l. Number of tins?",
            "I paint a hall {ceiling_height} m high with walls of {walls} meters, less {openings} m² of windows. The "
            "shop sells {tin_liters} liter tins; how many do I need?",
        ),
        between=("There are {given} m² to paint. Now the tins.", "The wall surface is {given} square meters."),
        answers=("You need {result} tins for {given} m².", "Buy {result} tins of paint."),
    ),
    Chain(
        field_boundary,
        fence_posts,
        feeds="fence_length",
        queries=(
            "My meadow has sides of {sides} m. How many posts do I need to fence it with {spacing} m between posts?",
            "Sides of the plot: {sides} m. Post spacing: {spacing} m. How many posts go around it?",
            "I'd like to fence in a field measuring {sides} meters on its sides, a post every {spacing} m. Posts?",
        ),
        between=("The boundary is {given} m long.", "All around it is {given} meters. Next, the posts."),
        answers=("You need {result} posts.", "For {given} m of fence, {result} posts are needed."),
    ),
    Chain(
        map_to_ground,
        steps_for_route,
        feeds="route_km",
        queries=(
            "My route is {map_cm} cm long on a {scale} map. How many steps will I take?",
            "{map_cm} cm on the map, scale {scale}, stride {stride_cm} cm: how many steps is that?",
            "The path to the lake is {map_cm} cm on our {scale} map. With steps of {stride_cm} cm, how many do I walk?",
        ),
        between=("The route is {given} km long.", "On the ground that is {given} km; now the steps."),
        answers=("You will take {result} steps.", "{given} km are about {result} steps."),
    ),
    Chain(
        parcel_size,
        square_side,
        feeds="plot_area",
        queries=(
            "If the plot at {street_address} in {town} were a square, how long would its sides be?",
            "Look up the land of {street_address}, {town}, and give me the side of a square of the same area.",
            "How long is the edge of a square as large as the lot at {street_address} ({town})?",
        ),
        between=("The plot has {given} m².", "It is {given} square meters large; I take the side of that square."),
        answers=("The side would be {result} m.", "A square of {given} m² has sides of {result} m."),
    ),
    Chain(
        heap_volume,
        square_side,
        feeds="plot_area",
        queries=(
            "Gravel lies in a {shape} {base_width} m wide and {heap_height} m high. Spread one meter deep, how long is "
            "the side of the square that it covers?",
            "I level a {shape} of soil ({base_width} m base, {heap_height} m high) to a square layer 1 m thick. Side?",
            "Side of a square bed, 1 m deep, filled by a {shape} of soil: base {base_width}, height {heap_height} m",
        ),
        between=("The heap has {given} m³, which cover as many square meters at 1 m.", "Volume: {given} m³."),
        answers=("The square has sides of {result} m.", "Each side measures {result} m."),
    ),
)
