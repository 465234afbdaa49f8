"""The drawn sample: pictures and captions that belong together, in the layout of Flickr8k."""

import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sample as scenes
from sample import SAMPLE_SPLITS, draw_sample, sample_is_current
from sample.captions import describe_scene
from sample.drawing import draw_scene
from sample.story import COLOURS, Scene, random_scene
from utils.machinery.errors import DatasetError

PEOPLE = {"boy", "girl", "man", "woman"}
PHOTOGRAPHS = 12
SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in SAMPLE_SPLITS}
scene_of_any_seed = st.integers(0, 2**32).map(lambda seed: random_scene(random.Random(seed)))


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return draw_sample(tmp_path_factory.mktemp("data") / "sample", PHOTOGRAPHS)


@pytest.fixture
def quick_pictures(monkeypatch):
    """Small grey pictures, where a test is about the files around them."""
    monkeypatch.setattr(scenes, "draw_scene", lambda scene: Image.new("RGB", (4, 3)))


def all_files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def captions_of(scene, seed=0):
    return describe_scene(scene, random.Random(seed))


def example(**changes):
    scene = Scene("grass", "run", ("dog",), ("brown",), ball=None, sky="clear", details=7)
    return replace(scene, **changes)


# The data set on disk


def test_the_photographs_are_readable_pictures_of_400_by_300_pixels(sample):
    photographs = sorted((sample / "Flicker8k_Dataset").iterdir())
    assert [path.name for path in photographs] == [
        f"scene_{number:04d}.jpg" for number in range(1, PHOTOGRAPHS + 1)
    ]
    for path in photographs:
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (400, 300))


def test_every_photograph_has_five_numbered_captions(sample):
    keys = Counter()
    for line in lines(sample / "Flickr8k.token.txt"):
        key, caption = line.split("\t")
        name, number = key.split("#")
        assert (sample / "Flicker8k_Dataset" / name).exists()
        assert number in "01234"
        assert caption
        keys[name] += 1
    assert len(keys) == PHOTOGRAPHS
    assert set(keys.values()) == {5}


def test_every_photograph_is_in_exactly_one_split(sample):
    names = [name for file in SPLIT_FILES.values() for name in lines(sample / file)]
    assert sorted(names) == sorted(path.name for path in (sample / "Flicker8k_Dataset").iterdir())
    assert all(lines(sample / file) for file in SPLIT_FILES.values())


def test_the_whole_sample_is_split_into_480_60_and_60(tmp_path, quick_pictures):
    folder = draw_sample(tmp_path / "sample")
    counts = {split: len(lines(folder / file)) for split, file in SPLIT_FILES.items()}
    assert counts == SAMPLE_SPLITS == {"train": 480, "dev": 60, "test": 60}


def test_the_same_seed_gives_the_same_bytes(sample, tmp_path):
    again = draw_sample(tmp_path / "again", PHOTOGRAPHS)
    assert all_files(again) == all_files(sample)


def test_another_seed_gives_other_captions_and_another_split(tmp_path, quick_pictures):
    first = all_files(draw_sample(tmp_path / "first", 40, seed=1))
    second = all_files(draw_sample(tmp_path / "second", 40, seed=2))
    for name in ("Flickr8k.token.txt", *SPLIT_FILES.values()):
        assert first[name] != second[name]


def test_a_smaller_sample_begins_with_the_same_scenes(sample, tmp_path):
    smaller = draw_sample(tmp_path / "smaller", 3)
    for path in (smaller / "Flicker8k_Dataset").iterdir():
        assert path.read_bytes() == (sample / "Flicker8k_Dataset" / path.name).read_bytes()
    small, large = (lines(folder / "Flickr8k.token.txt") for folder in (smaller, sample))
    assert small == large[: len(small)]


def test_an_interrupted_drawing_leaves_the_old_sample_and_no_litter(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "draw_scene", lambda scene: Image.new("RGB", (4, 3)))
    folder = draw_sample(tmp_path / "sample", 5)
    before = all_files(folder)
    drawn = []

    def interrupted(scene):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(scene)
        return Image.new("RGB", (4, 3))

    monkeypatch.setattr(scenes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_sample(folder, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    assert all_files(folder) == before


def test_an_older_sample_is_replaced_as_a_whole(tmp_path, quick_pictures):
    folder = draw_sample(tmp_path / "sample", 9)
    draw_sample(folder, 4)
    assert len(list((folder / "Flicker8k_Dataset").iterdir())) == 4
    assert sample_is_current(folder, 4)


def test_a_folder_with_other_files_is_never_replaced(tmp_path, quick_pictures):
    (tmp_path / "sample").mkdir()
    for added_to_a_sample in (False, True):
        if added_to_a_sample:
            draw_sample(tmp_path / "sample", 3)
        (tmp_path / "sample" / "holiday.jpg").write_bytes(b"dear")
        with pytest.raises(DatasetError, match="not a drawn sample"):
            draw_sample(tmp_path / "sample", 5)
        assert (tmp_path / "sample" / "holiday.jpg").read_bytes() == b"dear"
        (tmp_path / "sample" / "holiday.jpg").unlink()


def test_fewer_photographs_than_splits_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="3 or more"):
        draw_sample(tmp_path / "sample", 2)


def test_a_sample_is_current_only_while_it_is_whole_and_of_this_drawing(
    tmp_path, quick_pictures, monkeypatch
):
    folder = tmp_path / "sample"
    assert not sample_is_current(folder, 5)
    draw_sample(folder, 5)
    assert sample_is_current(folder, 5)
    assert not sample_is_current(folder, 5, seed=1)
    assert not sample_is_current(folder)
    monkeypatch.setattr(scenes, "DRAWING", scenes.DRAWING + 1)
    assert not sample_is_current(folder, 5)
    monkeypatch.undo()
    next((folder / "Flicker8k_Dataset").iterdir()).unlink()
    assert not sample_is_current(folder, 5)


# The scenes


@given(scene_of_any_seed)
def test_a_scene_makes_sense(scene):
    assert 1 <= scene.count == len(scene.colours) <= 3
    for subject, colour in zip(scene.subjects, scene.colours, strict=True):
        assert colour in COLOURS["person" if subject in PEOPLE else subject]
        assert not (subject == "dog" and colour == "white" and scene.background == "snow")
    assert ("boat" in scene.subjects) == (scene.action == "sail")
    assert ("bird" in scene.subjects) == (scene.action == "fly")
    assert (scene.ball is not None) == (scene.action == "play")
    assert scene.ball not in scene.colours
    if scene.action == "ride":
        assert set(scene.subjects) <= PEOPLE
    if scene.action in ("sail", "swim"):
        assert scene.background == "lake"


# The pictures


def test_a_scene_is_always_drawn_alike_and_no_two_scenes_are():
    scenes_drawn = [random_scene(random.Random(seed)) for seed in range(15)]
    pictures = [draw_scene(scene).tobytes() for scene in scenes_drawn]
    assert pictures[:3] == [draw_scene(scene).tobytes() for scene in scenes_drawn[:3]]
    assert len(set(pictures)) == 15


@pytest.mark.parametrize("action", ["run", "jump", "sit", "ride", "play", "swim", "fly", "sail"])
def test_every_action_shows_the_colours_of_its_subjects(action):
    rng = random.Random(action)
    found = [scene for scene in (random_scene(rng) for _ in range(480)) if scene.action == action]
    assert found
    for scene in found[:3]:
        share = changed_share(scene, replace(scene, colours=other_colours(scene)))
        assert share > 0.005, scene


def changed_share(scene, other):
    """The share of pixels that differ clearly; both scenes have the same background."""
    pictures = [np.asarray(draw_scene(one), dtype=int) for one in (scene, other)]
    return np.mean(np.abs(pictures[0] - pictures[1]).sum(axis=-1) > 60)


def other_colours(scene):
    return tuple(
        next(
            other
            for other in COLOURS["person" if subject in PEOPLE else subject]
            if other != colour
        )
        for subject, colour in zip(scene.subjects, scene.colours, strict=True)
    )


@pytest.mark.parametrize(("colour", "strong", "weak"), [("red", 0, 2), ("blue", 2, 0)])
def test_a_sail_has_the_colour_that_the_scene_says(colour, strong, weak):
    boat = Scene("lake", "sail", ("boat",), (colour,), ball=None, sky="cloudy", details=3)
    white = np.asarray(draw_scene(replace(boat, colours=("white",))), dtype=int)
    picture = np.asarray(draw_scene(boat), dtype=int)
    sail = picture[np.abs(picture - white).sum(axis=-1) > 150]
    assert len(sail) > 1500
    assert np.mean(sail[:, strong] - sail[:, weak]) > 60


def test_more_subjects_cover_different_places():
    one, three = (
        np.asarray(draw_scene(example(subjects=("dog",) * count, colours=("black",) * count)))
        for count in (1, 3)
    )
    dark = [(picture.max(axis=-1) < 75)[120:].any(axis=0).sum() for picture in (one, three)]
    assert dark[1] > 1.2 * dark[0]


# The captions


@given(scene_of_any_seed, st.integers(0, 2**32))
def test_five_different_captions_of_5_to_15_words_that_start_with_a_capital(scene, seed):
    captions = captions_of(scene, seed)
    assert len(set(captions)) == 5
    for caption in captions:
        assert re.fullmatch(r"[A-Z][a-z]*( [a-z]+)+( \.)?", caption)
        assert 5 <= len(caption.removesuffix(" .").split()) <= 15


@given(scene_of_any_seed, st.integers(0, 2**32))
def test_captions_are_grammatical_in_article_and_number(scene, seed):
    for caption in captions_of(scene, seed):
        text = caption.lower()
        assert not re.search(r"\ba [aeiou]", text), caption
        assert not re.search(r"\ban [^aeiou]", text), caption
        assert not re.search(r"\b(is|are) (is|are)\b|\bthe the\b|\ba a\b", text), caption
        if " there " not in f" {text}":
            assert not re.search(r"\bis\b" if scene.count > 1 else r"\bare\b", text), caption


@given(scene_of_any_seed, st.integers(0, 2**32))
def test_captions_say_no_colour_and_no_count_that_is_not_in_the_scene(scene, seed):
    scenery = r"blue (sky|water|lake)"
    number = {1: None, 2: "two", 3: "three"}[scene.count]
    for caption in captions_of(scene, seed):
        words = set(re.sub(scenery, "", caption.lower()).split())
        named = words & {colour for group in COLOURS.values() for colour in group}
        assert named <= {*scene.colours, scene.ball}, caption
        assert words & {"two", "three"} <= {number}, caption


@given(scene_of_any_seed, st.integers(0, 2**32))
def test_every_caption_names_who_is_in_the_picture(scene, seed):
    names = {
        "boy": "boys? child(ren)? kids?",
        "girl": "girls? child(ren)? kids?",
        "man": "man men guys? person people",
        "woman": "woman women lady ladies person people",
        "dog": "dogs? puppy puppies",
        "bird": "birds?",
        "boat": "boats? sailboats?",
    }
    for caption in captions_of(scene, seed):
        for subject in scene.subjects:
            pattern = "|".join(names[subject].split())
            assert re.search(rf"\b({pattern})\b", caption.lower()), caption


def test_five_people_differ_in_what_they_leave_out():
    captions = captions_of(example())
    assert any("brown" in caption for caption in captions)
    assert any("brown" not in caption for caption in captions)


def test_the_training_split_has_a_vocabulary_of_150_to_250_words_few_of_them_rare():
    words = Counter()
    for seed in range(480):
        rng = random.Random(seed)
        for caption in describe_scene(random_scene(rng), rng):
            words.update(caption.lower().removesuffix(" .").split())
    assert 150 <= len(words) <= 250
    assert sum(count < 4 for count in words.values()) <= 0.08 * len(words)


def test_some_captions_lack_their_full_stop():
    ends = Counter(
        caption.endswith(" .") for seed in range(60) for caption in captions_of(example(), seed)
    )
    assert 0.02 < ends[False] / 300 < 0.2
