"""Five captions for a drawn scene, worded as five people would word them.

A caption is put together from a subject ("two boys in red shirts"), a verb in one of three forms,
an object and a place. Each of the five people has another sentence in mind and leaves out
something else.
"""

import random
from collections.abc import Callable

from sample.story import CHILDREN, PEOPLE, Scene, colour_group
from sample.words import (
    BELOW_THE_BIRDS,
    EXTRAS,
    NOUNS,
    ON_THE_WATER,
    PATHS,
    PLACES,
    PLURALS,
    RARE_ADJECTIVES,
    SEATS,
    VERBS,
    VIEWS,
    WEATHER,
)

SHORTEST, LONGEST = 5, 15  # words of a caption


def describe_scene(scene: Scene, rng: random.Random) -> list[str]:
    """Five different captions of 5 to 15 words, spelt and punctuated as in Flickr8k's raw text."""
    captions: list[str] = []
    for sentence in rng.sample(_SENTENCES, len(_SENTENCES)):
        # Some subjects are too long for some sentences; then another sentence gets its turn.
        tries = (" ".join(sentence(_Wording(scene, rng)).split()) for _ in range(20))
        fitting = (words for words in tries if SHORTEST <= len(words.split()) <= LONGEST)
        caption = next((words for words in fitting if words not in captions), None)
        if caption is not None and len(captions) < 5:
            captions.append(caption)
    return [_written(caption, full_stop=rng.random() > 0.08) for caption in captions]


class _Wording:
    """One person's choice of words for a scene; every property picks anew."""

    def __init__(self, scene: Scene, rng: random.Random):
        self._scene, self._choose, self._chance = scene, rng.choice, rng.random
        self._plural = scene.count > 1
        self._verb, self._object = self._choose_verb()

    # The subject

    @property
    def subject(self) -> str:
        """Who it is, in so many words and perhaps with colours."""
        return self._subject(coloured=self._chance() < 0.6)

    @property
    def coloured_subject(self) -> str:
        return self._subject(coloured=True)

    @property
    def plain_subject(self) -> str:
        return self._subject(coloured=False)

    @property
    def there_is(self) -> str:
        subject = self.subject
        return f"there {'is' if subject.startswith('a') else 'are'} {subject}"

    def _subject(self, coloured: bool) -> str:
        scene = self._scene
        if len(set(zip(scene.subjects, scene.colours, strict=True))) == 1:
            return self._alike(scene.subjects[0], coloured)
        if set(scene.subjects) <= set(CHILDREN) and not coloured and self._chance() < 0.4:
            return f"two {self._choose(('children', 'kids'))}"
        if set(scene.subjects) == {"man", "woman"} and not coloured and self._chance() < 0.4:
            return "two people"
        if len(set(scene.subjects)) == 1 and not coloured:
            return self._alike(scene.subjects[0], coloured)
        return " and ".join(
            self._one(subject, colour if coloured else None, plain=True)
            for subject, colour in zip(scene.subjects, scene.colours, strict=True)
        )

    def _alike(self, subject: str, coloured: bool) -> str:
        colour = self._scene.colours[0] if coloured else None
        count = self._scene.count
        if count == 1:
            return self._one(subject, colour)
        number = {2: "two", 3: "three"}[count]
        if count == 3 and self._chance() < 0.2:
            number = "a group of"
        return f"{number} {self._noun_phrase(subject, colour, plural=True)}"

    def _one(self, subject: str, colour: str | None, plain: bool = False) -> str:
        return _with_article(self._noun_phrase(subject, colour, plural=False, plain=plain))

    def _noun_phrase(
        self, subject: str, colour: str | None, plural: bool, plain: bool = False
    ) -> str:
        noun = subject if plain else self._choose(NOUNS[subject])
        if plural:
            *adjectives, noun = noun.split()
            noun = " ".join([*adjectives, PLURALS.get(noun, f"{noun}s")])
        if colour and subject in PEOPLE:
            noun = f"{noun} {self._clothes(subject, colour, plural)}"
        elif colour and subject == "boat" and self._chance() < 0.5:
            sails = f"{colour} sails" if plural else _with_article(f"{colour} sail")
            noun = f"{noun} with {sails}"
        elif colour:
            noun = f"{colour} {noun}"
        if not plain and self._chance() < 0.025:
            noun = f"{self._choose(RARE_ADJECTIVES[colour_group(subject)])} {noun}"
        return noun

    def _clothes(self, subject: str, colour: str, plural: bool) -> str:
        garment = self._choose(("shirt", "shirt", "top")) if subject != "girl" else "dress"
        if self._scene.background == "snow":
            garment = self._choose(("jacket", "coat"))
        if self._scene.action == "swim":
            garment = self._choose(("cap", "swim cap"))
        many = f"{garment}es" if garment == "dress" else f"{garment}s"
        worn = f"{colour} {many}" if plural else _with_article(f"{colour} {garment}")
        if self._scene.action != "swim" and self._chance() < (0.2 if plural else 0.3):
            return f"in {colour}"
        return f"{self._choose(('in', 'in', 'wearing'))} {worn}"

    # What is being done

    @property
    def is_doing(self) -> str:
        return f"{'are' if self._plural else 'is'} {self.doing}"

    @property
    def does(self) -> str:
        return f"{self._verb[2 if self._plural else 1]} {self._object}"

    @property
    def doing(self) -> str:
        return f"{self._verb[0]} {self._object}"

    def _choose_verb(self) -> tuple[tuple[str, str, str], str]:
        scene, kind, verb_object = self._scene, self._scene.action, ""
        people = [subject for subject in scene.subjects if subject in PEOPLE]
        if kind == "ride":
            bicycle = self._choose(("bike", "bicycle"))
            verb_object = f"{bicycle}s" if self._plural else f"a {bicycle}"
        elif kind == "jump" and self._chance() < 0.5:
            verb_object = self._choose(("into the air", "in the air", "high"))
        elif kind == "play":
            colour = scene.ball if self._chance() < 0.7 else ""
            ball = _with_article(f"{colour} ball".strip())
            verb_object = f"with {ball}"
            if self._chance() < 0.5 and len(people) in (0, scene.count):
                kind, verb_object = ("kick" if people else "chase"), ball
        verbs = VERBS[kind]
        verb = self._choose((verbs[0], verbs[0], *verbs))
        if verb[0] == "paddling" and people:
            verb = verbs[0]
        return verb, verb_object

    # Where and when

    @property
    def place(self) -> str:
        scene = self._scene
        if scene.action == "fly":
            return self._choose((*BELOW_THE_BIRDS[scene.background], "in the sky"))
        if scene.action == "sail":
            return self._choose(ON_THE_WATER)
        if scene.action == "sit" and set(scene.subjects) <= set(PEOPLE):
            return self._choose(SEATS[scene.background])
        if scene.action == "sit" and scene.subjects[0] != "dog" and self._chance() < 0.5:
            return "under an umbrella" if scene.background == "beach" else "by a bench"
        if scene.action in ("run", "ride", "swim"):
            return self._choose(PATHS[scene.background])
        return self._choose(PLACES[scene.background])

    @property
    def place_and_more(self) -> str:
        """The place and something else, which repeats no noun ("in the park near the park")."""
        scene, place = self._scene, self.place
        extras = (*EXTRAS[scene.background], *WEATHER[scene.sky])
        new = [extra for extra in extras if not _long_words(place) & _long_words(extra)]
        return f"{place} {self._choose(new)}"

    @property
    def weather(self) -> str:
        return self._choose(WEATHER[self._scene.sky])

    @property
    def view(self) -> str:
        return self._choose(VIEWS[self._scene.background])


# The sentences that five people have in mind; each scene gets five of them.
_SENTENCES: tuple[Callable[[_Wording], str], ...] = (
    lambda say: f"{say.coloured_subject} {say.is_doing} {say.place}",
    lambda say: f"{say.coloured_subject} {say.does} {say.place}",
    lambda say: f"{say.plain_subject} {say.is_doing} {say.place_and_more}",
    lambda say: f"{say.plain_subject} {say.does} {say.place}",
    lambda say: f"{say.subject} {say.doing} {say.place}",
    lambda say: f"{say.subject} {say.is_doing} {say.weather}",
    lambda say: f"{say.coloured_subject} {say.is_doing}",
    lambda say: f"{say.there_is} {say.doing} {say.place}",
    lambda say: f"{say.view} with {say.subject} {say.doing}",
)


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _long_words(phrase: str) -> set[str]:
    return {word for word in phrase.split() if len(word) > 3}


def _written(words: str, full_stop: bool) -> str:
    caption = words[0].upper() + words[1:]
    return f"{caption} ." if full_stop else caption
