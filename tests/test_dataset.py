"""Finding, fetching and checking a data set; tiny copies of Flickr8k in all its public forms."""

import shutil
import zipfile
from pathlib import Path

import pytest

import sample as sample_module
from tests.test_lock import Holder
from utils import dataset as dataset_module
from utils import settings as settings_module
from utils.dataset import SPLIT_FILES, load_dataset
from utils.machinery.archives import download as download_module
from utils.machinery.errors import DatasetError, FolderInUseError
from utils.machinery.lock import LOCK_FILE
from utils.settings import PROJECT, Settings

PHOTOS = [f"{index:03d}_{index * 7919:x}.jpg" for index in range(24)]
SPLITS = {"train": PHOTOS[:16], "dev": PHOTOS[16:20], "test": PHOTOS[20:]}
FLICKR8K = PROJECT.parent / "shared" / "flickr8k"


def caption_of(photo: str, number: int) -> str:
    return f"Caption {number} , of {photo} ."


def write_photos(folder: Path, photos=PHOTOS) -> None:
    folder.mkdir(parents=True)
    for photo in photos:
        (folder / photo).touch()


def write_texts(folder: Path, splits=SPLITS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{photo}#{k}\t{caption_of(photo, k)}\n" for photo in PHOTOS for k in range(5)]
    (folder / "Flickr8k.token.txt").write_text("".join(lines))
    write_splits(folder, splits)


def write_splits(folder: Path, splits=SPLITS) -> None:
    for split, photos in splits.items():
        (folder / SPLIT_FILES[split]).write_text("\n".join(photos) + "\n")


def write_kaggle(folder: Path) -> None:
    write_photos(folder / "Images")
    lines = [f'{photo},"{caption_of(photo, k)}"\n' for photo in PHOTOS for k in range(5)]
    (folder / "captions.txt").write_text("image,caption\n" + "".join(lines))


def load(folder: Path, **choices):
    return load_dataset(Settings(dataset="flickr8k", data=folder, **choices))


@pytest.fixture
def original(tmp_path):
    """A folder with a tiny copy in the original form."""
    write_photos(tmp_path / "Flicker8k_Dataset")
    write_texts(tmp_path)
    return tmp_path


@pytest.fixture
def kaggle(tmp_path):
    write_kaggle(tmp_path)
    return tmp_path


def test_the_original_form_is_read_whole(original):
    dataset = load(original)
    assert dataset.name == "flickr8k"
    assert dataset.splits == SPLITS
    assert "Flickr_8k.trainImages.txt" in dataset.split_source
    assert list(dataset.captions.columns) == ["photo", "number", "caption"]
    assert len(dataset.captions) == 24 * 5
    assert dataset.photo_path(PHOTOS[3]).is_file()
    assert dataset.split_of[PHOTOS[16]] == "dev"
    assert list(dataset.split_of) == PHOTOS
    assert dataset.references([PHOTOS[20], PHOTOS[2]]) == [
        [caption_of(photo, number) for number in range(5)] for photo in (PHOTOS[20], PHOTOS[2])
    ]


@pytest.mark.parametrize("photo_folder", ["Flicker8k_Dataset", "Flickr8k_Dataset", "images"])
@pytest.mark.parametrize("text_folder", [".", "Flickr8k_text"])
@pytest.mark.parametrize("level", [".", "flickr8k"])
def test_the_spellings_and_places_that_occur_are_found(tmp_path, photo_folder, text_folder, level):
    write_photos(tmp_path / level / photo_folder)
    write_texts(tmp_path / level / text_folder)
    assert load(tmp_path).splits == SPLITS


def test_archives_unpacked_into_folders_of_their_own_are_found(tmp_path):
    write_photos(tmp_path / "Flickr8k_Dataset" / "Flicker8k_Dataset")
    write_texts(tmp_path / "Flickr8k_text")
    dataset = load(tmp_path)
    assert dataset.splits == SPLITS
    assert dataset.photo_path(PHOTOS[0]).is_file()


def test_both_forms_give_the_same_captions(tmp_path):
    write_photos(tmp_path / "one" / "Flicker8k_Dataset")
    write_texts(tmp_path / "one")
    write_kaggle(tmp_path / "two")
    write_splits(tmp_path / "two")
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert one.captions.equals(two.captions)
    assert one.splits == two.splits


def test_without_split_files_the_split_comes_from_the_seed_and_says_so(kaggle):
    dataset = load(kaggle, seed=1)
    sizes = {split: len(photos) for split, photos in dataset.splits.items()}
    assert sizes == {"train": 18, "dev": 3, "test": 3}
    assert sorted(dataset.split_of) == PHOTOS
    assert "seed 1" in dataset.split_source
    assert "don't compare" in dataset.split_source
    assert load(kaggle, seed=1).splits == dataset.splits
    assert load(kaggle, seed=2).splits != dataset.splits


def test_an_incomplete_set_of_split_files_is_refused(original):
    (original / SPLIT_FILES["dev"]).unlink()
    with pytest.raises(DatasetError, match=r"devImages\.txt missing"):
        load(original)


def test_a_photo_in_two_splits_is_refused_with_both_lines(original):
    write_splits(original, SPLITS | {"test": [*SPLITS["test"], PHOTOS[0]]})
    both = rf"testImages.* line 5: {PHOTOS[0]} \(.*trainImages\.txt, line 1\)"
    with pytest.raises(DatasetError, match=both):
        load(original)


def test_a_photo_named_twice_in_a_split_is_refused(original):
    write_splits(original, SPLITS | {"dev": [*SPLITS["dev"], PHOTOS[17]]})
    with pytest.raises(DatasetError, match=rf"devImages.txt, line 5: {PHOTOS[17]} .* line 2"):
        load(original)


def test_an_incomplete_copy_of_the_photographs_is_refused(original):
    (original / "Flicker8k_Dataset" / PHOTOS[0]).unlink()
    told = "\n".join(load(original).oddities)
    assert f"names 1 without a photograph in Flicker8k_Dataset: {PHOTOS[0]} (line 1)" in told
    (original / "Flicker8k_Dataset" / PHOTOS[5]).unlink()
    with pytest.raises(
        DatasetError, match=rf"24 photographs, and 2 of them .*{PHOTOS[5]} \(line 26"
    ):
        load(original)


def test_a_caption_without_photograph_is_skipped_and_said(original):
    token_file = original / "Flickr8k.token.txt"
    with token_file.open("a") as file:
        file.write("225_58.jpg.1#0\tpeople waiting for the subway\n")
    dataset = load(original)
    assert "225_58.jpg.1" not in set(dataset.captions["photo"])
    assert any("225_58.jpg.1 (line 121)" in oddity for oddity in dataset.oddities)


def test_photos_without_caption_or_split_and_unknown_names_are_said(original):
    (original / "Flicker8k_Dataset" / "silent.jpg").touch()
    (original / "Flicker8k_Dataset" / "._hidden.jpg").touch()
    (original / "Flicker8k_Dataset" / "Thumbs.db").touch()
    write_splits(original, SPLITS | {"train": [*SPLITS["train"][2:], "unknown.jpg"]})
    dataset = load(original)
    told = "\n".join(dataset.oddities)
    assert "holds 1 without a caption: silent.jpg" in told
    assert "trainImages.txt names 1 without photograph or caption: unknown.jpg (line 15)" in told
    assert "2 photographs are in no split" in told
    assert dataset.splits["train"] == SPLITS["train"][2:]
    assert not {PHOTOS[0], PHOTOS[1]} & set(dataset.captions["photo"])


def test_too_few_captions_of_a_photo_are_said(original):
    token_file = original / "Flickr8k.token.txt"
    token_file.write_text("".join(token_file.read_text().splitlines(keepends=True)[:-1]))
    told = "\n".join(load(original).oddities)
    assert f"1 photographs have fewer than 5 captions: {PHOTOS[-1]}." in told


def test_a_split_without_photographs_is_refused(original):
    write_splits(original, SPLITS | {"dev": [SPLITS["dev"][0], "gone.jpg", "lost.jpg"]})
    with pytest.raises(DatasetError, match="Split dev has 1 photographs"):
        load(original)


def test_a_copy_that_is_not_the_known_size_is_said(original):
    told = "\n".join(load(original).oddities)
    assert "8,091 usable photographs, this copy has 24" in told
    assert "6,000 usable train photographs, this copy has 16" in told


@pytest.mark.parametrize(
    ("limit", "sizes"), [(12, (6, 3, 3)), (18, (12, 3, 3)), (23, (15, 4, 4)), (100, (16, 4, 4))]
)
def test_a_limit_keeps_the_first_of_every_split_in_proportion(original, limit, sizes):
    dataset = load(original, limit=limit)
    assert dataset.splits == {
        split: SPLITS[split][:size] for split, size in zip(SPLITS, sizes, strict=True)
    }
    assert set(dataset.captions["photo"]) == set(dataset.split_of)


def test_photographs_can_be_left_out_later(original):
    dataset = load(original)
    fewer = dataset.without([PHOTOS[0], PHOTOS[20]])
    assert fewer.splits["train"] == PHOTOS[1:16]
    assert PHOTOS[20] not in fewer.split_of
    assert len(fewer.captions) == 22 * 5
    assert len(dataset.captions) == 24 * 5
    with pytest.raises(DatasetError, match="Split dev has 0"):
        dataset.without(SPLITS["dev"])


@pytest.mark.parametrize("missing", ["everything", "photographs", "captions", "folder"])
def test_a_folder_without_a_data_set_is_told_how_to_make_it_one(original, missing):
    if missing in ("everything", "photographs"):
        shutil.rmtree(original / "Flicker8k_Dataset")
    if missing in ("everything", "captions"):
        (original / "Flickr8k.token.txt").unlink()
    folder = original / "nowhere" if missing == "folder" else original
    with pytest.raises(DatasetError) as caught:
        load(folder)
    told = str(caught.value)
    for needed in ("missing", str(folder), "Flickr8k_Dataset.zip", "captions.txt", "DATA="):
        assert needed in told


# Fetching Flickr8k


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """Where Flickr8k would be downloaded to, with an address that nobody serves."""
    monkeypatch.setattr(settings_module, "PROJECT", tmp_path)
    monkeypatch.setattr(download_module, "PAUSE", 0.0)
    monkeypatch.setattr(dataset_module, "ARCHIVES_ADDRESS", "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "data" / "flickr8k"


def pack(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.rglob("*")):
            opened.write(file, file.relative_to(folder))


def test_without_network_the_message_says_how_to_place_the_files(data_folder):
    with pytest.raises(DatasetError) as caught:
        load_dataset(Settings(dataset="flickr8k"))
    told = str(caught.value)
    for needed in (str(data_folder), "no connection", "Flickr8k_text.zip", "DATA="):
        assert needed in told


def test_what_another_process_downloads_is_not_downloaded_beside_it(data_folder, monkeypatch):
    monkeypatch.setattr("utils.machinery.lock.PATIENCE", 0.1)
    with Holder(data_folder), pytest.raises(FolderInUseError, match="run this again"):
        load_dataset(Settings(dataset="flickr8k"))


def test_the_two_archives_are_unpacked_read_and_cleared_away(data_folder, tmp_path):
    write_photos(tmp_path / "photos" / "Flicker8k_Dataset")
    (tmp_path / "photos" / "Flicker8k_Dataset" / PHOTOS[0]).write_bytes(b"photograph")
    write_texts(tmp_path / "texts")
    pack(tmp_path / "photos", data_folder / "Flickr8k_Dataset.zip")
    pack(tmp_path / "texts", data_folder / "Flickr8k_text.zip")
    dataset = load_dataset(Settings(dataset="flickr8k"))
    assert dataset.splits == SPLITS
    assert dataset.photo_path(PHOTOS[0]).read_bytes() == b"photograph"
    names = {path.name for path in data_folder.iterdir()}
    assert names == {"Flickr8k_Dataset", "Flickr8k_text", LOCK_FILE}
    assert load_dataset(Settings(dataset="flickr8k")).splits == SPLITS


# The sample


def test_the_sample_is_drawn_once_and_read_without_oddities(tmp_path, monkeypatch):
    drawn = []

    def draw_few(folder):
        drawn.append(folder)
        return draw_sample(folder, photographs=20)

    draw_sample = dataset_module.draw_sample
    monkeypatch.setattr(sample_module, "draw_sample", draw_few)
    monkeypatch.setattr(sample_module, "sample_is_current", lambda folder: folder in drawn)
    for _ in range(2):
        dataset = load_dataset(Settings(data=tmp_path / "sample"))
    assert drawn == [tmp_path / "sample"]
    assert dataset.name == "sample"
    assert dataset.oddities == []
    assert len(dataset.split_of) == 20
    assert all(dataset.photo_path(photo).is_file() for photo in dataset.split_of)


def test_the_sample_is_not_drawn_over_somebodys_files(kaggle):
    with pytest.raises(DatasetError, match="set DATASET=flickr8k too"):
        load_dataset(Settings(dataset="sample", data=kaggle))
    assert {path.name for path in kaggle.iterdir()} == {"Images", "captions.txt"}


# The real data, where somebody has placed it


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="Flickr8k does not lie beside the project")
def test_flickr8k_itself_has_the_known_counts():
    dataset = load(FLICKR8K)
    sizes = {split: len(photos) for split, photos in dataset.splits.items()}
    assert sizes == {"train": 6000, "dev": 1000, "test": 1000}
    assert len(dataset.captions) == 40_000
    assert {len(captions) for captions in dataset.references(dataset.split_of)} == {5}
    told = "\n".join(dataset.oddities)
    assert "2258277193_586949ec62.jpg.1 (line" in told
    assert "91 photographs are in no split" in told
    assert "this copy has" not in told
