"""Dogs, birds, boats and the things that people sit on, ride and play with in the drawn scenes.

Everything looks right and stands, floats or flies at its pen's origin.
"""

import math
import random

from sample.pen import Pen, glassy, tint

COATS = {"brown": "#a8683a", "black": "#35323a", "white": "#f7f3ea"}
FEATHERS = {"white": "#fbfaf6", "black": "#35343d", "red": "#d9403a"}
SAILS = {
    "red": "#e0443c",
    "blue": "#2f6fd0",
    "yellow": "#f7cf3d",
    "orange": "#f2802a",
    "white": "#fbf8f0",
}
BALLS = {"red": "#e23b35", "blue": "#2f6fd0", "yellow": "#f9d22f", "orange": "#f5862b"}

# The legs of a dog as (joint, paw): the far hind and fore leg, then the near ones.
DOG_LEGS = {
    "stand": (
        ((-0.3, 0.24), (-0.24, 0.03)),
        ((0.36, 0.24), (0.4, 0.03)),
        ((-0.44, 0.24), (-0.4, 0.03)),
        ((0.26, 0.24), (0.26, 0.03)),
    ),
    "run": (
        ((-0.46, 0.26), (-0.68, 0.14)),
        ((0.5, 0.3), (0.72, 0.32)),
        ((-0.34, 0.2), (-0.56, 0.04)),
        ((0.44, 0.24), (0.64, 0.14)),
    ),
    "jump": (
        ((-0.5, 0.26), (-0.74, 0.16)),
        ((0.5, 0.42), (0.66, 0.3)),
        ((-0.46, 0.2), (-0.66, 0.04)),
        ((0.44, 0.36), (0.58, 0.22)),
    ),
}


def draw_dog(pen: Pen, action: str, colour: str) -> None:
    """Draws a dog that is about 1.5 units long; the actions are those of a scene."""
    coat = COATS[colour]
    far, patch = tint(coat, -0.2), tint(coat, -0.3 if colour != "black" else 0.25)
    belly = tint(coat, 0.25)
    if action == "sit":
        _sitting_dog(pen, coat, far, belly)
        _dog_head(pen.at(0.24, 0.84), coat, patch, belly)
        return
    pose = DOG_LEGS.get(action, DOG_LEGS["stand"])
    tail = [(-0.46, 0.56), (-0.62, 0.66), (-0.68, 0.84)]
    pen.stroke(tail, 0.085, coat, smooth=True)
    for index, (joint, paw) in enumerate(pose):
        hind = index % 2 == 0
        root = (-0.36, 0.46) if hind else (0.3, 0.46)
        shade = far if index < 2 else coat
        if index == 2:
            _dog_body(pen, coat, belly)
        pen.limb([root, joint, paw], [0.14 if hind else 0.1, 0.065, 0.045], shade)
        pen.limb([paw, (paw[0] + 0.05, paw[1] - 0.005)], [0.046, 0.04], shade)
    pen.limb([(0.34, 0.58), (0.5, 0.8)], [0.15, 0.115], coat)
    pen.stroke([(0.36, 0.79), (0.47, 0.7), (0.56, 0.68)], 0.05, "#e2574c", smooth=True)  # collar
    _dog_head(pen.at(0.56, 0.86), coat, patch, belly)


def draw_swimming_dog(pen: Pen, colour: str) -> None:
    """Draws head and back of a dog; the origin lies on the surface of the water."""
    coat = COATS[colour]
    patch = tint(coat, -0.3 if colour != "black" else 0.25)
    pen.blob([(-0.6, -0.08), (-0.42, 0.1), (-0.1, 0.13), (0.24, 0.14), (0.5, -0.08)], coat)
    pen.stroke([(-0.55, 0.02), (-0.72, 0.12), (-0.8, 0.26)], 0.08, coat, smooth=True)
    pen.limb([(0.26, 0.06), (0.4, 0.26)], [0.16, 0.13], coat)
    pen.stroke([(0.24, 0.22), (0.35, 0.14), (0.47, 0.13)], 0.05, "#e2574c", smooth=True)
    _dog_head(pen.at(0.46, 0.34), coat, patch, tint(coat, 0.25))


def draw_bird(pen: Pen, colour: str, lift: float) -> None:
    """Draws a flying bird about 1.6 units wide; `lift` in -1..1 is how high the wings are."""
    plume = FEATHERS[colour]
    dark = tint(plume, -0.16) if colour != "black" else tint(plume, 0.16)
    tip = tint(plume, -0.55) if colour != "black" else plume
    far_wing = [(0.12, 0.06), (0.34, 0.3 + 0.2 * lift), (0.62, 0.34 + 0.42 * lift)]
    pen.blob([*far_wing, (0.42, 0.16 + 0.2 * lift), (-0.02, 0.0)], dark)
    pen.polygon([(-0.3, 0.02), (-0.62, 0.1), (-0.56, -0.02), (-0.6, -0.1), (-0.28, -0.08)], dark)
    body = [(-0.36, -0.02), (-0.1, 0.1), (0.2, 0.12), (0.38, 0.08), (0.3, -0.06), (-0.02, -0.13)]
    pen.blob(body, plume)
    pen.disc(0.37, 0.08, 0.105, plume)
    pen.polygon([(0.45, 0.12), (0.64, 0.045), (0.45, 0.02)], "#f2a33a")
    pen.disc(0.41, 0.11, 0.024, "#221d1b" if colour != "black" else "#fbf7ef")
    near = [
        (0.2, 0.06),
        (0.04, 0.36 + 0.24 * lift),
        (-0.3, 0.44 + 0.46 * lift),
        (-0.68, 0.38 + 0.62 * lift),
        (-0.4, 0.22 + 0.28 * lift),
        (-0.14, 0.0),
    ]
    pen.blob(near, plume)
    pen.blob([near[3], (-0.5, near[3][1] * 0.98), (-0.46, near[4][1] + 0.1)], tip)
    pen.stroke([(0.12, 0.05), (-0.02, 0.2 + 0.12 * lift)], 0.018, dark, smooth=True)


def draw_boat(pen: Pen, colour: str) -> None:
    """Draws a sailing boat about 1.2 units wide and 1.5 high; the origin is on the water."""
    sail = SAILS[colour]
    pen.stroke([(0.02, 0.15), (0.02, 1.42)], 0.03, "#6b4a33")
    main = [(-0.03, 1.36), (-0.16, 1.0), (-0.34, 0.62), (-0.56, 0.3), (-0.3, 0.27), (-0.03, 0.28)]
    pen.polygon(main, sail)
    pen.polygon([(-0.03, 1.36), (-0.09, 1.0), (-0.03, 0.28)], tint(sail, -0.1))
    for height, start, end in ((0.62, -0.33, -0.03), (0.92, -0.2, -0.03)):
        pen.stroke([(start, height), (end, height + 0.02)], 0.012, tint(sail, -0.16))
    jib = [(0.06, 1.26), (0.25, 0.84), (0.56, 0.3), (0.3, 0.27), (0.06, 0.3)]
    pen.polygon(jib, tint(sail, 0.35) if colour != "white" else "#e9e2d2")
    pen.polygon([(0.02, 1.5), (-0.16, 1.45), (0.02, 1.4)], "#f06a5a")
    hull = [(-0.58, 0.2), (0.68, 0.24), (0.52, 0.06), (0.36, -0.04), (-0.4, -0.04), (-0.52, 0.06)]
    pen.polygon(hull, "#8f5a3c")
    pen.polygon([(-0.58, 0.2), (0.68, 0.24), (0.63, 0.17), (-0.56, 0.14)], "#f4ead8")
    pen.polygon([(-0.5, 0.03), (0.48, 0.03), (0.36, -0.04), (-0.4, -0.04)], "#6d422c")


def draw_bicycle(pen: Pen, colour: str) -> None:
    """Draws a bicycle on which the pose "ride" sits; 1 unit is the height of its rider."""
    back, front, pedals = (-0.3, 0.19), (0.4, 0.19), (0.02, 0.18)
    seat, head = (-0.13, 0.47), (0.28, 0.5)
    for hub in (back, front):
        for step in range(4):
            spoke = pen.at(*hub, angle=45 * step + 12)
            spoke.stroke([(-0.17, 0), (0.17, 0)], 0.006, glassy("#f4f4f4", 0.7))
        pen.ring(*hub, 0.19, 0.028, "#2c2d33")
        pen.disc(*hub, 0.024, "#2c2d33")
    for line in ((back, pedals, seat, back), (seat, head, pedals), (head, front)):
        pen.stroke(list(line), 0.03, colour)
    pen.stroke([head, (0.25, 0.58), (0.32, 0.6)], 0.026, "#2c2d33")
    pen.limb([(-0.2, 0.49), (-0.08, 0.49)], [0.03, 0.02], "#2c2d33")
    pen.ring(*pedals, 0.05, 0.018, "#2c2d33")


def draw_bench(pen: Pen, width: float) -> None:
    """Draws a park bench on which the pose "sit" sits."""
    wood, iron = "#b57b45", "#4b4a50"
    left, right = -width / 2, width / 2
    for x in (left + 0.08, right - 0.08):
        pen.stroke([(x, 0.0), (x, 0.22)], 0.035, iron)
        pen.stroke([(x - 0.05, 0.2), (x - 0.05, 0.56)], 0.03, iron)
    for height in (0.38, 0.5):
        pen.stroke([(left, height), (right, height)], 0.07, tint(wood, -0.08))
    pen.stroke([(left, 0.23), (right, 0.23)], 0.06, wood)


def draw_ball(pen: Pen, colour: str) -> None:
    """Draws a ball with a radius of 1 unit; the origin is its centre."""
    paint = BALLS[colour]
    pen.disc(0, 0, 1, paint)
    pen.blob([(-0.95, 0.2), (-0.2, 0.35), (0.6, 0.78), (0.2, 0.1), (-0.4, -0.15)], "#fdf8ec")
    pen.blob([(0.95, -0.1), (0.4, -0.3), (-0.1, -0.95), (0.35, -0.9), (0.8, -0.55)], "#fdf8ec")
    pen.disc(-0.35, 0.45, 0.2, glassy("#ffffff", 0.55))


def draw_umbrella(pen: Pen, rng: random.Random) -> None:
    """Draws a beach umbrella 1 unit high."""
    first = rng.choice(("#2a9d8f", "#e76f7f", "#5a8fd6"))
    pen.stroke([(0, 0), (0.04, 0.95)], 0.022, "#f2ede2")
    rim = [(0.04 + 0.56 * math.cos(math.pi * step / 24), step) for step in range(25)]
    dome = [(x, 0.68 + 0.32 * math.sin(math.pi * step / 24)) for x, step in rim]
    for stripe in range(6):
        arc = dome[4 * stripe : 4 * stripe + 5]
        scallop = ((arc[0][0] + arc[-1][0]) / 2, 0.705)
        corners = [(arc[-1][0], 0.68), scallop, (arc[0][0], 0.68)]
        pen.polygon([*arc, *corners], first if stripe % 2 else "#fdf6e6")


def _dog_body(pen: Pen, coat: str, belly: str) -> None:
    back = [(-0.5, 0.5), (-0.42, 0.64), (-0.05, 0.65), (0.3, 0.7), (0.46, 0.58)]
    pen.blob([*back, (0.44, 0.4), (0.28, 0.32), (-0.1, 0.38), (-0.42, 0.36)], coat)
    pen.blob([(0.4, 0.4), (0.26, 0.34), (-0.08, 0.39), (-0.28, 0.39), (0.1, 0.45)], belly)


def _sitting_dog(pen: Pen, coat: str, far: str, belly: str) -> None:
    pen.stroke([(-0.36, 0.1), (-0.56, 0.08), (-0.68, 0.24)], 0.085, coat, smooth=True)
    pen.limb([(0.18, 0.5), (0.24, 0.25), (0.26, 0.04)], [0.1, 0.065, 0.05], far)
    back = [(-0.36, 0.06), (-0.38, 0.3), (-0.2, 0.55), (0.0, 0.82), (0.26, 0.78)]
    pen.blob([*back, (0.3, 0.5), (0.14, 0.2), (0.04, 0.02)], coat)
    pen.blob([(0.28, 0.64), (0.3, 0.46), (0.18, 0.26), (0.16, 0.5)], belly)
    pen.limb([(0.14, 0.5), (0.16, 0.25), (0.16, 0.04)], [0.1, 0.07, 0.05], coat)
    pen.limb([(0.16, 0.04), (0.23, 0.035)], [0.05, 0.045], coat)
    pen.disc(-0.16, 0.2, 0.2, coat)
    pen.limb([(-0.1, 0.05), (0.04, 0.045)], [0.055, 0.045], coat)
    pen.stroke([(0.04, 0.72), (0.17, 0.66), (0.31, 0.7)], 0.05, "#e2574c", smooth=True)


def _dog_head(pen: Pen, coat: str, patch: str, belly: str) -> None:
    pen.disc(0, 0, 0.165, coat)
    pen.limb([(0.08, -0.035), (0.27, -0.065)], [0.1, 0.07], coat)
    pen.limb([(0.16, -0.09), (0.27, -0.09)], [0.05, 0.042], belly)
    pen.disc(0.33, -0.03, 0.04, "#2a2422")
    pen.disc(0.085, 0.055, 0.04, glassy("#ffffff", 0.75))
    pen.disc(0.092, 0.055, 0.026, "#2a2422")
    pen.blob([(0.22, -0.11), (0.3, -0.12), (0.28, -0.22), (0.22, -0.2)], "#ef7f86")  # tongue
    pen.blob([(-0.06, 0.14), (-0.16, 0.08), (-0.21, -0.14), (-0.1, -0.18), (-0.01, 0.0)], patch)
