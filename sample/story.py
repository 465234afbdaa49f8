"""What can happen in a drawn scene: who does what, where, and in which colours."""

import random
from dataclasses import dataclass

CHILDREN = ("boy", "girl")
PEOPLE = ("boy", "girl", "man", "woman")
BACKGROUNDS = ("grass", "beach", "snow", "street", "lake")

# Each background with the actions that make sense there; a repeated action is drawn more often.
ACTIONS = {
    "grass": ("run", "run", "jump", "play", "play", "ride", "sit", "fly"),
    "beach": ("run", "run", "jump", "play", "play", "ride", "sit", "fly"),
    "snow": ("run", "run", "jump", "jump", "play", "sit", "fly"),
    "street": ("run", "run", "play", "ride", "ride", "sit", "fly"),
    "lake": ("swim", "swim", "sail", "sail", "sail", "fly"),
}

COLOURS = {
    "person": ("red", "blue", "yellow", "orange", "purple"),
    "dog": ("brown", "black", "white"),
    "bird": ("white", "black", "red"),
    "boat": ("red", "blue", "yellow", "orange", "white"),
    "ball": ("red", "blue", "yellow", "orange"),
}


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows and a caption may say.

    subjects: one to three of "boy", "girl", "man", "woman", "dog", "bird", "boat".
    colours: one for each subject: of a person's clothes, a coat, feathers or a sail.
    ball: the colour of the ball, only where the action is "play".
    sky: "clear", "cloudy" or "sunset".
    details: seed of everything that no caption mentions, such as the places of the clouds.
    """

    background: str
    action: str
    subjects: tuple[str, ...]
    colours: tuple[str, ...]
    ball: str | None
    sky: str
    details: int

    @property
    def count(self) -> int:
        return len(self.subjects)


def random_scene(rng: random.Random) -> Scene:
    """A sensible scene: no boats in a meadow, no flying dogs, no white dog in white snow."""
    background = rng.choice(BACKGROUNDS)
    action = rng.choice(ACTIONS[background])
    subjects = _random_subjects(action, rng)
    colours = _random_colours(subjects, background, rng)
    ball = None
    if action == "play":
        ball = rng.choice([colour for colour in COLOURS["ball"] if colour not in colours])
    sky = rng.choice(("clear", "clear", "clear", "cloudy", "cloudy", "sunset"))
    return Scene(background, action, subjects, colours, ball, sky, rng.randrange(2**32))


def colour_group(subject: str) -> str:
    """The key of `COLOURS` for a subject."""
    return "person" if subject in PEOPLE else subject


def _random_subjects(action: str, rng: random.Random) -> tuple[str, ...]:
    if action == "fly":
        return ("bird",) * rng.choice((1, 2, 3))
    if action == "sail":
        return ("boat",) * rng.choice((1, 1, 2, 2, 3))
    first = rng.choice((*PEOPLE, "dog", "dog"))
    if action == "ride":
        first = rng.choice(PEOPLE)
    count = rng.choice((1, 1, 1, 1, 2, 2, 3) if action in ("run", "jump", "swim") else (1, 1, 1, 2))
    if count == 2 and first in PEOPLE and rng.random() < 0.5:
        partners = {"boy": "girl", "girl": "boy", "man": "woman", "woman": "man"}
        second = partners[first] if action == "ride" or rng.random() < 0.4 else "dog"
        return (first, second)
    return (first,) * count


def _random_colours(
    subjects: tuple[str, ...], background: str, rng: random.Random
) -> tuple[str, ...]:
    palettes = [
        [
            colour
            for colour in COLOURS[colour_group(subject)]
            if not (colour == "white" and background == "snow")
        ]
        for subject in subjects
    ]
    first = rng.choice(palettes[0])
    if len(set(subjects)) == 1 and (len(subjects) != 2 or rng.random() < 0.7):
        return (first,) * len(subjects)
    return (first, *(rng.choice([c for c in palette if c != first]) for palette in palettes[1:]))
