"""Puts a scene together: the place first, then who is in it, each with a shadow or some foam."""

import random

from PIL import Image

from sample.backgrounds import draw_background
from sample.pen import FRAME, HEIGHT, OVERSAMPLING, WIDTH, Pen, glassy
from sample.people import draw_person, draw_swimmer
from sample.story import CHILDREN, PEOPLE, Scene
from sample.things import (
    SAILS,
    draw_ball,
    draw_bench,
    draw_bicycle,
    draw_bird,
    draw_boat,
    draw_dog,
    draw_swimming_dog,
    draw_umbrella,
)

BICYCLES = ("#d8473f", "#2b8c8c", "#3d5a9a", "#e0a030")
SHADOW = glassy("#1d2a3a", 0.22)
FOAM = "#e9f5fb"

# Where one, two or three subjects stand: (from the centre, up), the farther ones first.
PLACES = {
    1: ((0.0, 0.0),),
    2: ((-0.32, 0.035), (0.32, 0.0)),
    3: ((0.0, 0.07), (-0.42, 0.0), (0.42, 0.01)),
}
# How large a unit of each drawing is when there are one, two or three of them.
SIZES = {
    "person": (0.64, 0.56, 0.5),
    "swimmer": (0.66, 0.46, 0.36),
    "swimming dog": (0.6, 0.36, 0.28),
    "dog": (0.54, 0.36, 0.27),
    "bird": (0.5, 0.42, 0.32),
    "boat": (0.52, 0.4, 0.32),
}


def draw_scene(scene: Scene) -> Image.Image:
    """Draws the scene; returns an RGB picture of 400 x 300 pixels, always the same for a scene."""
    rng = random.Random(scene.details)
    image = Image.new("RGB", (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING))
    pen = Pen(image)
    draw_background(pen, scene.background, scene.sky, rng)
    x = FRAME / 2 + rng.uniform(-0.04, 0.04)
    stage = pen.at(x, _ground(scene) + rng.uniform(-0.02, 0.02), facing=rng.choice((1, -1)))
    draw = {"play": _draw_game, "sail": _draw_boats, "fly": _draw_birds, "swim": _draw_swimmers}
    draw.get(scene.action, _draw_group)(stage, scene, rng)
    return image.reduce(OVERSAMPLING)


def _ground(scene: Scene) -> float:
    """The height at which the subjects stand or float."""
    if scene.action == "fly":
        return 0.6 if scene.background == "street" else 0.53
    if scene.background == "street" and scene.action == "sit":
        return 0.28  # on the pavement
    return 0.2 if scene.background == "lake" else 0.1


def _size(kind: str, count: int) -> float:
    return SIZES[kind][count - 1]


def _draw_group(stage: Pen, scene: Scene, rng: random.Random) -> None:
    """People and dogs that run, jump, sit or ride, all in one direction."""
    if scene.action == "sit" and scene.subjects[0] in PEOPLE:
        if scene.background == "beach":
            draw_umbrella(stage.at(-0.16, 0.03, 0.74), rng)
        else:
            width = 1.0 if scene.count == 1 else 1.7
            draw_bench(stage.at(0, 0, _size("person", 1)), width)
    people = zip(scene.subjects, scene.colours, PLACES[scene.count], strict=True)
    for subject, colour, (x, y) in people:
        if scene.action == "sit":
            x, y = x * 0.9, 0.0
        place = stage.at(x + rng.uniform(-0.02, 0.02), y)
        _draw_actor(place, scene, subject, colour, scene.action, rng)


def _draw_game(stage: Pen, scene: Scene, rng: random.Random) -> None:
    """One plays with the ball alone, or two with the ball between them."""
    ball = stage.at(0.38, 0.08 + rng.choice((0.0, 0.12, 0.2)))
    if scene.count == 2:
        ball = stage.at(rng.uniform(-0.03, 0.03), 0.08 + rng.choice((0.0, 0.15)))
    _draw_shadow(stage.at(0.38 if scene.count == 1 else 0, 0), 0.07)
    for index, (subject, colour) in enumerate(zip(scene.subjects, scene.colours, strict=True)):
        x = -0.14 if scene.count == 1 else (-0.38, 0.38)[index]
        place = stage.at(x, 0, facing=-1 if index else 1)
        action = rng.choice(("run", "stand")) if subject == "dog" else "play"
        _draw_actor(place, scene, subject, colour, action, rng)
    draw_ball(ball.at(0, 0, 0.075, angle=rng.uniform(0, 360)), scene.ball)


def _draw_actor(
    place: Pen, scene: Scene, subject: str, colour: str, action: str, rng: random.Random
) -> None:
    """One person or dog with its shadow, on the ground or above it."""
    lift = rng.uniform(0.1, 0.16) if action == "jump" else 0.0
    if subject == "dog":
        size = 0.34 if scene.subjects[0] != "dog" else _size("dog", scene.count)
        _draw_shadow(place, 0.72 * size * (1 - lift))
        tilt = rng.uniform(12, 22) if action == "jump" else 0
        draw_dog(place.at(0, lift, size, angle=tilt), action, colour)
        return
    size = _size("person", scene.count)
    figure = place.at(0, lift, size)
    _draw_shadow(place, (0.42 if action in ("ride", "run", "lounge") else 0.3) * size)
    if action == "ride":
        frame = figure.at(0, 0, 0.78) if subject in CHILDREN else figure
        draw_bicycle(frame, rng.choice(BICYCLES))
    if action == "sit" and scene.background == "beach":
        action = "lounge"
    if action == "sit" and subject in CHILDREN:
        figure = figure.at(0.02, 0.06)  # their legs don't reach the ground
    draw_person(figure, subject, action, colour, rng, winter=scene.background == "snow")


def _draw_shadow(place: Pen, half_width: float) -> None:
    place.oval(0.01, 0.0, half_width, half_width * 0.16, SHADOW)


def _draw_birds(stage: Pen, scene: Scene, rng: random.Random) -> None:
    places = {
        1: ((0.0, 0.0),),
        2: ((-0.3, 0.1), (0.3, -0.04)),
        3: ((-0.4, 0.16), (0.02, -0.06), (0.42, 0.12)),
    }[scene.count]
    for colour, (x, y) in zip(scene.colours, places, strict=True):
        tilt = rng.uniform(0, 14)
        place = stage.at(x, y - 0.05 + rng.uniform(-0.03, 0.03), _size("bird", scene.count))
        draw_bird(place.at(0, 0, angle=tilt), colour, lift=rng.uniform(0.1, 0.8))


def _draw_boats(stage: Pen, scene: Scene, rng: random.Random) -> None:
    for colour, (x, y) in zip(scene.colours, PLACES[scene.count], strict=True):
        size = _size("boat", scene.count) * rng.uniform(0.95, 1.05)
        boat = stage.at(x, y, size)
        for row in range(5):
            height, half = -0.08 - 0.07 * row, 0.5 - 0.08 * row
            paint = glassy("#8f5a3c" if row < 2 else SAILS[colour], 0.4)
            shift = rng.uniform(-0.05, 0.05)
            boat.oval(shift, height, half, 0.024, paint)
        draw_boat(boat.at(0, 0, angle=rng.uniform(-3, 3)), colour)
        crest = [(-0.66, -0.02), (-0.4, 0.01), (-0.1, -0.03), (0.2, 0.01), (0.5, -0.03), (0.7, 0.0)]
        boat.stroke(crest, 0.03, FOAM, smooth=True)


def _draw_swimmers(stage: Pen, scene: Scene, rng: random.Random) -> None:
    for subject, colour, (x, y) in zip(
        scene.subjects, scene.colours, PLACES[scene.count], strict=True
    ):
        kind = "swimming dog" if subject == "dog" else "swimmer"
        swimmer = stage.at(x, y * 3, _size(kind, scene.count))
        if subject == "dog":
            draw_swimming_dog(swimmer, colour)
        else:
            draw_swimmer(swimmer, subject, colour, rng)
        wave = [(-0.8, -0.02), (-0.4, 0.02), (0.0, -0.01), (0.4, 0.015), (0.75, -0.03)]
        swimmer.blob([*wave, (0.5, -0.12), (-0.5, -0.12)], glassy("#3f8cc4", 0.6))
        swimmer.stroke(wave, 0.022, FOAM, smooth=True)
        swimmer.stroke([(-0.6, -0.08), (-0.2, -0.06), (0.3, -0.08)], 0.012, FOAM, smooth=True)
        for _ in range(9):
            drop = (rng.uniform(-0.85, -0.5), rng.uniform(0.0, 0.2))
            swimmer.disc(*drop, rng.uniform(0.012, 0.03), FOAM)
