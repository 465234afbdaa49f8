"""People for the drawn scenes: one body, a pose for each action, and four ways of dressing it.

The unit is the height of an adult; the origin lies on the ground below the hips. Poses look right.
"""

import random
from dataclasses import dataclass

from sample.pen import Colour, Pen, Point, tint

# Skin and hair
LOOKS = (
    ("#f6cfae", "#d9a441"),
    ("#f6cfae", "#b5522b"),
    ("#f3c6a0", "#5b3a22"),
    ("#eab68d", "#2e211b"),
    ("#c98f62", "#3a2619"),
    ("#8a5a3b", "#1f1613"),
)
WINTER_WOOL = ("#2b8c8c", "#d66a9b", "#6b7a8f")
CLOTHES = {
    "red": "#dc3b36",
    "blue": "#2f6fd0",
    "yellow": "#f6c92f",
    "orange": "#f2802a",
    "purple": "#8a4fbf",
}
TROUSERS = ("#34435e", "#4a4038", "#3c5a66", "#5b5470")


@dataclass(frozen=True)
class Pose:
    """Where the joints are; each limb as (middle joint, end), the far limb first."""

    hips: Point
    neck: Point
    legs: tuple[tuple[Point, Point], tuple[Point, Point]]
    arms: tuple[tuple[Point, Point], tuple[Point, Point]]


POSES = {
    "run": Pose(
        hips=(0.0, 0.46),
        neck=(0.08, 0.77),
        legs=(((-0.12, 0.27), (-0.34, 0.16)), ((0.2, 0.37), (0.17, 0.1))),
        arms=(((0.2, 0.6), (0.34, 0.7)), ((-0.1, 0.58), (-0.03, 0.43))),
    ),
    "jump": Pose(
        hips=(0.0, 0.5),
        neck=(0.03, 0.82),
        legs=(((-0.16, 0.34), (-0.34, 0.3)), ((0.19, 0.4), (0.16, 0.16))),
        arms=(((-0.2, 0.86), (-0.29, 1.06)), ((0.24, 0.88), (0.34, 1.08))),
    ),
    "play": Pose(
        hips=(0.0, 0.47),
        neck=(-0.06, 0.79),
        legs=(((-0.05, 0.25), (-0.1, 0.03)), ((0.17, 0.33), (0.36, 0.2))),
        arms=(((0.13, 0.68), (0.27, 0.76)), ((-0.24, 0.66), (-0.38, 0.72))),
    ),
    "sit": Pose(
        hips=(-0.08, 0.31),
        neck=(-0.09, 0.63),
        legs=(((0.16, 0.31), (0.2, 0.04)), ((0.13, 0.29), (0.14, 0.03))),
        arms=(((0.03, 0.47), (0.15, 0.38)), ((-0.04, 0.44), (0.1, 0.36))),
    ),
    "lounge": Pose(
        hips=(-0.12, 0.08),
        neck=(-0.22, 0.39),
        legs=(((0.1, 0.24), (0.27, 0.04)), ((0.14, 0.2), (0.34, 0.03))),
        arms=(((-0.34, 0.24), (-0.36, 0.04)), ((-0.02, 0.25), (0.12, 0.24))),
    ),
    "ride": Pose(
        hips=(-0.15, 0.56),
        neck=(-0.02, 0.87),
        legs=(((0.1, 0.46), (0.06, 0.24)), ((0.07, 0.37), (-0.03, 0.11))),
        arms=(((0.16, 0.64), (0.29, 0.6)), ((0.13, 0.62), (0.28, 0.59))),
    ),
}


def draw_person(
    pen: Pen, kind: str, action: str, colour: str, rng: random.Random, winter: bool = False
) -> None:
    """Draws a "boy", "girl", "man" or "woman" in a pose of `POSES`.

    `colour` is that of the shirt, dress or jacket; skin, hair and trousers are drawn from `rng`;
    `winter` adds long sleeves, trousers, a scarf and a woollen hat.
    """
    child = kind in ("boy", "girl")
    pose = POSES[action]
    skin, hair = rng.choice(LOOKS)
    shirt, trousers = CLOTHES[colour], rng.choice(TROUSERS)
    sleeve = shirt if winter or kind == "man" else skin
    long_trousers = winter or kind == "man"
    pen = pen.at(0, 0, 0.78 if child else 1)

    for near in (False, True):
        dim = 0 if near else -0.14  # the far limb in its own shade, or both would melt together
        knee, foot = pose.legs[near]
        _leg(pen, pose.hips, knee, foot, skin, trousers if long_trousers else None, dim)
        if not near:
            _arm(pen, pose.neck, *pose.arms[near], skin, sleeve, shirt, dim)
        elif kind == "boy" and not winter:
            thigh = [pose.hips, knee]
            pen.limb(thigh, [0.082, 0.075], trousers)

    _torso(pen, pose, shirt, skirt=kind == "girl", belt=trousers)
    if kind == "woman" and not winter:
        _skirt(pen, pose, trousers, length=0.9)
    head = _head_centre(pose, child)
    radius = 0.125 if child else 0.1
    if kind in ("girl", "woman"):
        _long_hair(pen, kind, head, radius, hair)
    pen.limb([pose.neck, head], [0.045, 0.045], tint(skin, -0.12))
    _head(pen, head, radius, skin, hair, kind)
    if winter:
        _winter_things(pen, pose, head, radius, rng.choice(WINTER_WOOL))
    elif kind == "boy":
        _cap(pen, head, radius, tint(trousers, 0.1))
    _arm(pen, pose.neck, *pose.arms[1], skin, sleeve, shirt, -0.06)


def draw_swimmer(pen: Pen, kind: str, colour: str, rng: random.Random) -> None:
    """Draws a crawling swimmer with a coloured cap; the origin lies on the surface of the water."""
    skin, hair = rng.choice(LOOKS)
    radius = 0.14 if kind in ("boy", "girl") else 0.125
    head = (0.2, 0.12)
    pen.blob([(-0.62, -0.03), (-0.4, 0.05), (-0.1, 0.1), (0.12, 0.06), (0.1, -0.05)], skin)
    pen.blob([(-0.45, 0.0), (-0.3, 0.085), (-0.08, 0.105), (0.0, 0.0)], CLOTHES[colour])
    pen.limb([(0.08, 0.03), (0.42, 0.02), (0.6, -0.03)], [0.05, 0.042, 0.035], tint(skin, -0.14))
    if kind in ("girl", "woman"):
        pen.blob([(0.1, 0.2), (-0.06, 0.12), (-0.16, 0.02), (0.05, 0.0), (0.14, 0.06)], hair)
    pen.disc(*head, radius, skin)
    x, y = head
    cap = [(-1.04, -0.05), (-0.85, 0.6), (-0.2, 1.06), (0.5, 0.9), (0.86, 0.42), (0, 0.3)]
    pen.blob([(x + u * radius, y + v * radius) for u, v in cap], CLOTHES[colour])
    _face(pen, head, radius)
    if kind == "man":
        _beard(pen, head, radius, hair)
    pen.limb([(0.02, 0.08), (-0.1, 0.34), (0.16, 0.46)], [0.06, 0.048, 0.036], tint(skin, -0.05))
    pen.disc(0.19, 0.475, 0.042, tint(skin, -0.05))


def _head_centre(pose: Pose, child: bool) -> Point:
    x, y = pose.neck
    return (x + 0.035, y + (0.145 if child else 0.12))


def _leg(
    pen: Pen, hips: Point, knee: Point, foot: Point, skin: str, trousers: str | None, dim: float
) -> None:
    colour = tint(trousers or skin, dim)
    pen.limb([hips, knee, foot], [0.075, 0.058, 0.04], colour)
    x, y = foot
    pen.limb([(x, y - 0.015), (x + 0.075, y - 0.02)], [0.04, 0.03], tint("#4a3b3b", dim))


def _arm(
    pen: Pen, neck: Point, elbow: Point, hand: Point, skin: str, sleeve: str, shirt: str, dim: float
) -> None:
    shoulder = (neck[0] - 0.01, neck[1] - 0.055)
    pen.limb([shoulder, elbow, hand], [0.05, 0.04, 0.034], tint(sleeve, dim))
    middle = ((shoulder[0] + elbow[0]) / 2, (shoulder[1] + elbow[1]) / 2)
    pen.limb([shoulder, middle], [0.058, 0.055], tint(shirt, dim))
    pen.disc(*hand, 0.04, tint(skin, dim))


def _torso(pen: Pen, pose: Pose, shirt: str, skirt: bool, belt: str) -> None:
    (hip_x, hip_y), (neck_x, neck_y) = pose.hips, pose.neck
    chest = (neck_x - 0.005, neck_y - 0.09)
    if not skirt:
        pen.disc(hip_x, hip_y, 0.088, belt)
    pen.limb([(hip_x, hip_y + 0.03), chest], [0.088, 0.1], shirt)
    if skirt:
        _skirt(pen, pose, shirt, length=0.72)


def _skirt(pen: Pen, pose: Pose, colour: str, length: float) -> None:
    (hip_x, hip_y), knees = pose.hips, [leg[0] for leg in pose.legs]
    back, front = min(knees), max(knees)
    if back[0] > hip_x:  # seated: the skirt lies on the thighs
        for x, y in knees:
            end = (hip_x + (x - hip_x) * length, hip_y + (y - hip_y) * length)
            pen.limb([pose.hips, end], [0.092, 0.085], colour)
        return
    hem = [
        (hip_x + (knee[0] - hip_x) * length + side, hip_y + (knee[1] - hip_y) * length - 0.02)
        for knee, side in ((front, 0.1), (back, -0.1))
    ]
    waist = hip_y + 0.1
    pen.blob([(hip_x - 0.07, waist), (hip_x + 0.09, waist), *hem], colour)
    pen.polygon([(hip_x - 0.07, waist), (hip_x + 0.09, waist), *hem], colour)
    pen.stroke(
        [(hip_x - 0.06, waist - 0.01), (hip_x + 0.08, waist - 0.01)], 0.03, tint(colour, -0.2)
    )


def _long_hair(pen: Pen, kind: str, head: Point, radius: float, hair: str) -> None:
    x, y = head
    if kind == "girl":
        for side, lift in ((-1.15, 0.05), (0.55, 0.4)):
            tail = [(side, 0.5), (side - 0.75, lift), (side - 0.8, -0.7), (side - 0.2, -0.25)]
            pen.blob([(x + u * radius, y + v * radius) for u, v in tail], hair)
        return
    mane = [(0.4, 0.95), (-0.9, 0.8), (-1.6, -0.4), (-2.3, -1.9), (-1.2, -1.7), (-0.2, -0.7)]
    pen.blob([(x + u * radius, y + v * radius) for u, v in mane], hair)


def _head(pen: Pen, head: Point, radius: float, skin: Colour, hair: Colour, kind: str) -> None:
    x, y = head
    pen.disc(x, y, radius, skin)
    pen.disc(x - 0.3 * radius, y - 0.1 * radius, 0.17 * radius, tint(skin, -0.12))  # ear
    fringe = [(-1.05, -0.1), (-0.95, 0.6), (-0.2, 1.12), (0.6, 0.95), (0.92, 0.45), (0.3, 0.5)]
    pen.blob([(x + u * radius, y + v * radius) for u, v in [*fringe, (-0.55, 0.25)]], hair)
    _face(pen, head, radius)
    if kind == "man":
        _beard(pen, head, radius, hair)


def _face(pen: Pen, head: Point, radius: float) -> None:
    x, y = head
    for across in (0.28, 0.72):
        pen.disc(x + across * radius, y + 0.08 * radius, 0.1 * radius, "#2b2320")
    pen.disc(x + 0.22 * radius, y - 0.3 * radius, 0.17 * radius, (235, 110, 100, 90))
    smile = [(0.34, -0.42), (0.52, -0.52), (0.72, -0.42)]
    pen.stroke([(x + u * radius, y + v * radius) for u, v in smile], 0.012, "#8a3b32", smooth=True)


def _beard(pen: Pen, head: Point, radius: float, hair: str) -> None:
    x, y = head
    shape = [(-0.6, -0.1), (-0.25, -0.35), (0.5, -0.68), (0.95, -0.35), (0.7, -0.95), (0, -1.15)]
    pen.blob([(x + u * radius, y + v * radius) for u, v in [*shape, (-0.55, -0.75)]], hair)


def _cap(pen: Pen, head: Point, radius: float, colour: Colour) -> None:
    x, y = head
    crown = [(-1.08, 0.25), (-0.85, 0.85), (-0.1, 1.2), (0.65, 0.95), (1.0, 0.35), (0, 0.3)]
    pen.blob([(x + u * radius, y + v * radius) for u, v in crown], colour)
    pen.limb(
        [(x + 0.7 * radius, y + 0.42 * radius), (x + 1.5 * radius, y + 0.36 * radius)],
        [0.13 * radius, 0.09 * radius],
        tint(colour, -0.2),
    )


def _winter_things(pen: Pen, pose: Pose, head: Point, radius: float, colour: str) -> None:
    x, y = head
    neck_x, neck_y = pose.neck
    pen.limb([(neck_x - 0.05, neck_y), (neck_x + 0.08, neck_y)], [0.038, 0.038], colour)
    scarf = [
        (neck_x - 0.05, neck_y),
        (neck_x - 0.17, neck_y - 0.02),
        (neck_x - 0.26, neck_y - 0.08),
    ]
    pen.stroke(scarf, 0.055, colour, smooth=True)
    crown = [(-1.05, 0.35), (-0.8, 0.95), (-0.05, 1.3), (0.7, 1.0), (1.02, 0.42), (0, 0.35)]
    pen.blob([(x + u * radius, y + v * radius) for u, v in crown], colour)
    pen.stroke(
        [(x - radius, y + 0.4 * radius), (x + 0.98 * radius, y + 0.45 * radius)], 0.05, "#fbf7ef"
    )
    pen.disc(x - 0.1 * radius, y + 1.42 * radius, 0.3 * radius, "#fbf7ef")
