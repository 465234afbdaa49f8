"""Every photograph that the project shows may be shown, and what is said beside it is there."""

from dataclasses import replace

import pytest

from tools.free_photographs import LICENCES, PHOTOGRAPHS, free_photographs


def test_every_photograph_names_its_maker_its_licence_and_where_that_is_stated():
    free = free_photographs()
    assert sorted(one.file for one in free) == sorted(
        file.name for file in PHOTOGRAPHS.glob("*.jpg")
    )
    for one in free:
        assert one.licence in LICENCES
        assert one.source
        assert "licence in" in one.found
        assert one.named_in("")[1] >= 3


def test_a_photograph_is_small_and_tells_nothing_but_its_picture():
    for one in free_photographs():
        picture = one.open()
        assert (picture.mode, max(picture.size) <= 600) == ("RGB", True)
        assert not dict(picture.getexif())  # which can hold where somebody lives


def test_people_and_dogs_outdoors_come_first():
    familiar = [one.familiar for one in free_photographs()]
    assert familiar == sorted(familiar, reverse=True)
    assert len(set(familiar)) == 2


@pytest.mark.parametrize(
    ("caption", "named"), [("two men play", 1), ("a man plays soccer", 2), ("a cowman", 0)]
)
def test_things_are_counted_as_whole_words(caption, named):
    photo = replace(free_photographs()[0], things="man|men soccer grass")
    assert photo.named_in(caption) == (named, 3)
