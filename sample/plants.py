"""Trees and reeds for the backgrounds of the drawn scenes, and the light that falls on everything.

The unit is the height of the plant; the origin is where it leaves the ground.
"""

import random

from sample.pen import Colour, Pen, mix, tint


class Light:
    """Turns the colour of a thing into what it looks like under a sky."""

    def __init__(self, sky: str):
        self._film, self._share = {
            "clear": ("#ffffff", 0.0),
            "cloudy": ("#8a9aa8", 0.14),
            "sunset": ("#e8703a", 0.17),
        }[sky]

    def __call__(self, colour: Colour) -> Colour:
        return mix(colour, self._film, self._share)


def draw_tree(pen: Pen, light: Light, rng: random.Random) -> None:
    pen.limb([(0, -0.05), (0, 0.5)], [0.055, 0.035], light("#7a5439"))
    leaves = light(rng.choice(("#4f9d4a", "#5dab4f", "#3f8c53", "#6bb05a")))
    crown = [(-0.2, 0.5, 0.2), (0.2, 0.5, 0.2), (0.0, 0.74, 0.25), (0.0, 0.52, 0.24)]
    for x, y, radius in crown:
        pen.disc(x, y, radius, leaves)
    for x, y, radius in ((-0.08, 0.8, 0.12), (-0.2, 0.56, 0.1)):
        pen.disc(x, y, radius, tint(leaves, 0.14))


def draw_palm(pen: Pen, light: Light) -> None:
    trunk = [(-0.05, -0.05), (-0.01, 0.3), (0.06, 0.6), (0.17, 0.9)]
    pen.limb(trunk, [0.045, 0.036, 0.03, 0.026], light("#a67b4f"))
    for height in range(12):
        share = height / 12
        x = -0.05 + 0.22 * share**1.4
        pen.stroke([(x - 0.03, share * 0.92), (x + 0.035, share * 0.92)], 0.008, light("#8a6340"))
    for angle in (-150, -110, -60, 200, 10, 45, 100):
        leaf = pen.at(0.17, 0.9, 0.4, angle=angle)
        shape = [(0, 0), (0.35, 0.13), (0.75, 0.06), (1.0, -0.14), (0.7, -0.03), (0.35, 0.0)]
        leaf.blob(shape, light("#3d9a55" if angle % 20 else "#52b066"))
    for x, y in ((0.14, 0.86), (0.2, 0.85)):
        pen.disc(x, y, 0.03, light("#6f4a2f"))


def draw_pine(pen: Pen, light: Light) -> None:
    pen.limb([(0, -0.03), (0, 0.2)], [0.04, 0.04], light("#6d4c36"))
    for base, width, top in ((0.12, 0.32, 0.55), (0.34, 0.26, 0.78), (0.56, 0.19, 1.0)):
        pen.polygon([(-width, base), (0, top), (width, base)], light("#3b7a66"))
        middle = (base + top) / 2
        cap = [
            (-0.5 * width, middle),
            (0, top),
            (0.5 * width, middle),
            (0.2 * width, middle + 0.03),
        ]
        pen.polygon([*cap, (0, middle - 0.03), (-0.2 * width, middle + 0.03)], light("#f4f9fd"))


def draw_reeds(pen: Pen, light: Light, rng: random.Random) -> None:
    for _ in range(9):
        x, height, lean = rng.uniform(0, 0.55), rng.uniform(0.4, 0.95), rng.uniform(-0.08, 0.18)
        stem = [(x, -0.1), (x + lean * 0.3, height * 0.6), (x + lean, height)]
        pen.stroke(stem, 0.02, light(rng.choice(("#3d7d46", "#5b9a4c"))), smooth=True)
        if rng.random() < 0.4:
            pen.limb(
                [(x + lean, height - 0.14), (x + lean, height)], [0.03, 0.03], light("#7a4d2e")
            )
