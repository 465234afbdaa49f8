"""The five places in which the drawn scenes happen, from the sky down to the flowers.

The unit is the height of the picture, which is `FRAME` wide; the origin is its lower left corner.
"""

import math
import random

from sample.pen import FRAME, Colour, Pen, Point, glassy, tint
from sample.plants import Light, draw_palm, draw_pine, draw_reeds, draw_tree

# Upper, middle and lower colour of the sky.
SKIES = {
    "clear": ("#4aa3e8", "#8fcbf3", "#dff3fb"),
    "cloudy": ("#8fb3cc", "#b7d0de", "#e9f1f2"),
    "sunset": ("#6d66b3", "#f0937f", "#ffd894"),
}


def draw_background(pen: Pen, background: str, sky: str, rng: random.Random) -> None:
    """Draws "grass", "beach", "snow", "street" or "lake" over the whole picture."""
    paint = {
        "grass": _draw_meadow,
        "beach": _draw_beach,
        "snow": _draw_snow,
        "street": _draw_street,
        "lake": _draw_lake,
    }
    _draw_sky(pen, sky, rng)
    paint[background](pen, Light(sky), rng)


def _draw_sky(pen: Pen, sky: str, rng: random.Random) -> None:
    top, middle, bottom = SKIES[sky]
    pen.shaded([(0, 1), (FRAME, 1), (FRAME, 0.3), (0, 0.3)], top, bottom, middle)
    side = rng.choice((0.16, 0.84)) + rng.uniform(-0.06, 0.06)
    if sky != "cloudy":
        x, y = side * FRAME, rng.uniform(0.8, 0.88) if sky == "clear" else rng.uniform(0.56, 0.64)
        colour = "#fff3b8" if sky == "clear" else "#fff0c2"
        for radius, opacity in ((0.16, 0.16), (0.12, 0.25), (0.09, 0.35)):
            pen.disc(x, y, radius, glassy(colour, opacity))
        pen.disc(x, y, 0.065, "#ffe066" if sky == "clear" else "#fff2cf")
    clouds = {"clear": rng.randint(1, 3), "cloudy": rng.randint(4, 6), "sunset": rng.randint(1, 3)}
    for _ in range(clouds[sky]):
        x, y = rng.uniform(0.0, FRAME), rng.uniform(0.7, 0.95)
        _draw_cloud(pen.at(x, y, rng.uniform(0.11, 0.19)), sky, rng)


def _draw_cloud(pen: Pen, sky: str, rng: random.Random) -> None:
    colour = {"clear": "#ffffff", "cloudy": "#f4f7f8", "sunset": "#ffd9c4"}[sky]
    puffs = [(-0.62, 0.16, 0.2), (-0.28, 0.3, 0.32), (0.14, 0.36, 0.38), (0.54, 0.2, 0.25)]
    puffs = [(x, y, radius * rng.uniform(0.85, 1.15)) for x, y, radius in puffs]
    for x, y, radius in puffs:
        pen.disc(x, y, radius, colour)
    pen.limb([(-0.72, 0.1), (0.7, 0.1)], [0.13, 0.13], colour)
    pen.limb([(-0.6, 0.02), (0.6, 0.02)], [0.05, 0.05], tint(colour, -0.06))


def _hills(base: float, height: float, rng: random.Random, waves: float = 1.6) -> list[Point]:
    """The outline of a chain of hills, closed along the lower edge of the picture."""
    shift, second = rng.uniform(0, math.tau), rng.uniform(0, math.tau)
    outline = []
    for step in range(41):
        x = FRAME * step / 40
        rise = 0.6 * math.sin(waves * math.tau * x / FRAME + shift)
        rise += 0.4 * math.sin(2.3 * waves * math.tau * x / FRAME + second)
        outline.append((x, base + height * (rise + 1) / 2))
    return [*outline, (FRAME, 0), (0, 0)]


def _draw_meadow(pen: Pen, light: Light, rng: random.Random) -> None:
    pen.shaded(_hills(0.46, 0.14, rng), light("#9cc9b4"), light("#b9dcb6"))
    pen.shaded(_hills(0.4, 0.12, rng, 1.1), light("#7dbb76"), light("#9ed07f"))
    for _ in range(rng.randint(3, 6)):
        x = rng.choice((rng.uniform(0, 0.45), rng.uniform(0.9, FRAME)))
        draw_tree(pen.at(x, rng.uniform(0.37, 0.42), rng.uniform(0.2, 0.34)), light, rng)
    pen.shaded(_hills(0.35, 0.05, rng, 0.8), light("#86c95a"), light("#4f9f3c"))
    for _ in range(34):
        x, y = rng.uniform(0, FRAME), rng.uniform(0.02, 0.32)
        size = 0.05 * (1.25 - 2 * y)
        for lean in (-0.4, 0.0, 0.45):
            blade = [(x, y), (x + lean * size, y + size)]
            pen.stroke(blade, 0.005, light("#3f8a34"))
    petals = rng.sample(("#ffffff", "#ffd84d", "#f79ac0", "#e8eaff"), 2)
    for _ in range(rng.randint(8, 20)):
        x, y = rng.uniform(0, FRAME), rng.uniform(0.02, 0.28)
        size = 0.011 * (1.3 - 1.5 * y)
        petal = light(rng.choice(petals))
        for turn in range(5):
            angle = math.tau * turn / 5
            pen.disc(x + size * math.cos(angle), y + size * math.sin(angle), size * 0.75, petal)
        pen.disc(x, y, size * 0.6, light("#f2a93b"))


def _draw_water(
    pen: Pen, surface: float, top: Colour, bottom: Colour, light: Light, rng: random.Random
) -> None:
    corners = [(0, surface), (FRAME, surface), (FRAME, 0), (0, 0)]
    pen.shaded(corners, light(top), light(bottom))
    for _ in range(30):
        depth = rng.random() ** 1.4
        x, y = rng.uniform(-0.05, FRAME), surface * (1 - depth) - 0.01
        length = (0.04 + 0.14 * depth) * rng.uniform(0.7, 1.3)
        shine = glassy("#ffffff", rng.uniform(0.2, 0.5))
        pen.oval(x, y, length / 2, 0.0015 + 0.0035 * depth, shine)


def _draw_beach(pen: Pen, light: Light, rng: random.Random) -> None:
    if rng.random() < 0.6:
        pen.shaded(_hills(0.49, 0.09, rng, 0.7), light("#8fb9c9"), light("#a9cbd3"))
    _draw_water(pen, 0.53, "#2f95c9", "#5cc6d0", light, rng)
    shift = rng.uniform(0, math.tau)
    shore = [
        (FRAME * step / 30, 0.36 + 0.016 * math.sin(math.tau * step / 11 + shift))
        for step in range(31)
    ]
    for lift, colour in ((0.024, glassy("#ffffff", 0.55)), (0.01, "#fbfeff"), (0.0, "#d8bd86")):
        pen.polygon([*((x, y + lift) for x, y in shore), (FRAME, 0), (0, 0)], colour)
    sand = [*((x, y - 0.02) for x, y in shore), (FRAME, 0), (0, 0)]
    pen.shaded(sand, light("#f0d69c"), light("#e3b871"))
    for _ in range(70):
        x, y = rng.uniform(0, FRAME), rng.uniform(0.01, 0.31)
        pen.oval(x, y, 0.006, 0.002, light(rng.choice(("#cfa765", "#f8e6bd"))))
    for _ in range(rng.randint(2, 5)):
        shell = pen.at(rng.uniform(0.05, FRAME), rng.uniform(0.02, 0.2), 0.016)
        colour = light(rng.choice(("#fff4e6", "#f7b8a8", "#f4d8ef")))
        shell.blob([(-1, 0), (-0.8, 0.8), (0, 1.2), (0.8, 0.8), (1, 0)], colour)
    if rng.random() < 0.5:
        right = rng.random() < 0.5
        place = pen.at(FRAME - 0.06 if right else 0.06, 0.22, 0.62, facing=-1 if right else 1)
        draw_palm(place, light)


def _draw_snow(pen: Pen, light: Light, rng: random.Random) -> None:
    for _ in range(rng.randint(2, 4)):
        peak = pen.at(rng.uniform(0.05, FRAME - 0.05), 0.38, rng.uniform(0.26, 0.42))
        slope = rng.uniform(0.8, 1.1)
        peak.shaded([(-slope, 0), (0, 1), (slope, 0)], light("#8aa4c4"), light("#b9cde0"))
        peak.polygon([(0, 1), (slope, 0), (0.25, 0), (0.1, 0.5)], glassy("#5f7ea6", 0.28))
        cap = [(0, 1), (0.36 * slope, 0.64), (0.17, 0.72), (0.04, 0.6), (-0.14, 0.71)]
        peak.polygon([*cap, (-0.34 * slope, 0.66)], light("#fbfdff"))
    pen.shaded(_hills(0.36, 0.09, rng, 0.9), light("#e3eef7"), light("#d4e4f1"))
    for _ in range(rng.randint(5, 9)):
        x = rng.choice((rng.uniform(0, 0.5), rng.uniform(0.85, FRAME)))
        draw_pine(pen.at(x, rng.uniform(0.34, 0.4), rng.uniform(0.16, 0.32)), light)
    pen.shaded(_hills(0.31, 0.06, rng, 0.7), light("#fdfeff"), light("#cfdff0"))
    for _ in range(8):
        drift = pen.at(rng.uniform(0, FRAME), rng.uniform(0.02, 0.26), rng.uniform(0.08, 0.2))
        drift.oval(0, 0, 1, 0.07, glassy("#b4cbe4", 0.4))
    for _ in range(rng.choice((0, 0, 45))):
        pen.disc(rng.uniform(0, FRAME), rng.uniform(0.05, 1), rng.uniform(0.003, 0.008), "#ffffff")


def _draw_street(pen: Pen, light: Light, rng: random.Random) -> None:
    walls = ["#e9967a", "#f2c572", "#8fc1b5", "#d9a3b8", "#a9b8d8", "#efe0c2", "#c98d6b"]
    rng.shuffle(walls)
    x = rng.uniform(-0.15, 0.0)
    for wall in walls:
        width = rng.uniform(0.23, 0.32)
        if x < FRAME:
            _draw_house(pen.at(x, 0.36), width, rng.uniform(0.22, 0.36), wall, light, rng)
        x += width
    pavement = [(0, 0.37), (FRAME, 0.37), (FRAME, 0.28), (0, 0.28)]
    pen.shaded(pavement, light("#d9d0c4"), light("#c9bfb3"))
    for step in range(9):
        joint = [(step * 0.17, 0.37), (step * 0.17 - 0.03, 0.29)]
        pen.stroke(joint, 0.004, light("#b7ada2"))
    pen.polygon([(0, 0.29), (FRAME, 0.29), (FRAME, 0.27), (0, 0.27)], light("#a39a92"))
    pen.shaded([(0, 0.27), (FRAME, 0.27), (FRAME, 0), (0, 0)], light("#7d8088"), light("#5d6069"))
    shift = rng.uniform(0, 0.3)
    for step in range(6):
        left = step * 0.3 - shift
        dash = [(left, 0.055), (left + 0.16, 0.055), (left + 0.15, 0.035), (left - 0.01, 0.035)]
        pen.polygon(dash, light("#f4f1e4"))
    for place in rng.sample((0.07, 0.4, 0.95, 1.26), 2):
        draw_tree(pen.at(place, 0.34, rng.uniform(0.3, 0.38)), light, rng)


def _draw_house(
    pen: Pen, width: float, height: float, wall: str, light: Light, rng: random.Random
) -> None:
    pen.polygon([(0, 0), (width, 0), (width, height), (0, height)], light(wall))
    roof = light(rng.choice(("#a5533f", "#6c5b6e", "#5b6b7d", "#8c5a46")))
    peak = rng.uniform(0.06, 0.12)
    if rng.random() < 0.6:
        gable = [(-0.015, height), (width / 2, height + peak), (width + 0.015, height)]
        pen.polygon(gable, roof)
    else:
        eaves = [(-0.01, height), (0.02, height + 0.06), (width - 0.02, height + 0.06)]
        pen.polygon([*eaves, (width + 0.01, height)], roof)
    door = rng.randrange(3)
    glass, frame = light(rng.choice(("#cfe6f2", "#ffe9a8"))), light("#fdf8ee")
    for row in range(2 if height > 0.28 else 1):
        for column in range(3):
            x = width * (column + 0.5) / 3
            y = 0.08 + 0.13 * row
            if row == 0 and column == door:
                pen.polygon(
                    [(x - 0.026, 0), (x + 0.026, 0), (x + 0.026, 0.12), (x - 0.026, 0.12)],
                    light("#7b4b3a"),
                )
                pen.disc(x + 0.016, 0.055, 0.005, light("#f2d27a"))
                continue
            for half, paint in ((0.028, frame), (0.022, glass)):
                corners = [(-half, -half), (half, -half), (half, half * 1.3), (-half, half * 1.3)]
                pen.polygon([(x + u, y + v) for u, v in corners], paint)
            pen.stroke([(x, y - 0.022), (x, y + 0.028)], 0.004, frame)


def _draw_lake(pen: Pen, light: Light, rng: random.Random) -> None:
    pen.shaded(_hills(0.6, 0.17, rng, 1.2), light("#8db4c4"), light("#b7d3d3"))
    pen.shaded(_hills(0.57, 0.09, rng, 1.7), light("#6fae7f"), light("#8cc48c"))
    for _ in range(rng.randint(6, 12)):
        place = pen.at(rng.uniform(0, FRAME), rng.uniform(0.57, 0.6), rng.uniform(0.07, 0.13))
        draw_tree(place, light, rng)
    _draw_water(pen, 0.57, "#6fb9dd", "#2473b5", light, rng)
    pen.stroke([(0, 0.57), (FRAME, 0.57)], 0.006, glassy("#ffffff", 0.5))
    if rng.random() < 0.6:
        side, facing = rng.choice(((0.0, 1), (FRAME, -1)))
        draw_reeds(pen.at(side, 0, 0.3, facing=facing), light, rng)
