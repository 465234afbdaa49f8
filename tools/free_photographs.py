"""Photographs that everybody may see, which show what a captioner says where Flickr8k's may not.

`photographs/sources.json` lists them with what is to be seen, who made them, their licence, and
where that is stated.
"""

from dataclasses import dataclass

from PIL import Image

from utils.machinery.files import read_json
from utils.photographs import open_photograph
from utils.settings import PROJECT

PHOTOGRAPHS = PROJECT / "photographs"
LICENCES = ("public domain", "CC0", "CC BY 4.0", "CC BY-SA 4.0")  # that a photograph may have


@dataclass(frozen=True)
class FreePhotograph:
    """A photograph, and what has to be said beside it."""

    file: str  # its name in `photographs/`
    familiar: bool  # whether it shows people or dogs outdoors, as those of Flickr8k do
    things: str  # that are in it, separated by spaces; "|" between words for the same
    source: str  # who made it, and what it shows
    licence: str
    found: str  # where it is from, and where its licence is stated

    def open(self) -> Image.Image:
        """Reads the photograph: RGB."""
        return open_photograph(PHOTOGRAPHS / self.file)

    def named_in(self, caption: str) -> tuple[int, int]:
        """How many of its `things` a caption names, and how many there are."""
        said = set(caption.split())
        named = [not said.isdisjoint(same.split("|")) for same in self.things.split()]
        return sum(named), len(named)


def free_photographs() -> list[FreePhotograph]:
    """All of them; those of people and dogs outdoors come first."""
    return [FreePhotograph(**row) for row in read_json(PHOTOGRAPHS / "sources.json")]
