"""Finding, fetching, reading and checking a data set, with all that may be wrong in its files."""

import os
import shutil
import zipfile
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import sample as sample_module
from tests.test_lock import Holder
from utils import dataset as dataset_module
from utils import settings as settings_module
from utils.dataset import SPLIT_FILES, load_dataset, read_captions, read_split, require_same_data
from utils.machinery import archives
from utils.machinery.errors import DatasetError, FolderInUseError, StaleArtefactError
from utils.machinery.files import write_json
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
    assert f"names 1 without a photograph: {PHOTOS[0]} (line 1)" in told
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
    monkeypatch.setattr(archives, "PAUSE", 0.0)
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

    draw_sample = sample_module.draw_sample
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
    (kaggle / "readme.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DatasetError, match="set DATASET=flickr8k too"):
        load_dataset(Settings(dataset="sample", data=kaggle))
    assert {path.name for path in kaggle.iterdir()} == {"Images", "captions.txt", "readme.txt"}


# What results were made from


def test_results_of_other_data_are_not_mixed_with(original, tmp_path):
    summary = tmp_path / "runs" / "dataset.json"
    require_same_data(load(original), summary)  # nothing was made yet
    write_json(summary, {"made_from": load(original).made_from})
    shutil.copytree(original, tmp_path / "copy")
    require_same_data(load(tmp_path / "copy"), summary)
    with pytest.raises(StaleArtefactError, match="other captions and splits and photographs"):
        require_same_data(load(original, limit=12), summary)
    (original / "Flicker8k_Dataset" / PHOTOS[3]).write_bytes(b"another")
    with pytest.raises(StaleArtefactError, match=r"made from other photographs\. Move"):
        require_same_data(load(original), summary)


# Odd files and folders


def test_names_in_other_letters_are_named_as_the_cause(original):
    for photo in PHOTOS[:3]:
        path = original / "Flicker8k_Dataset" / photo
        path.rename(path.with_suffix(".JPG"))
    with pytest.raises(DatasetError, match=r"3 of them.*\.JPG for \.jpg: rename"):
        load(original)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names and links")
def test_names_that_are_no_text_and_links_to_themselves_are_skipped(original):
    folder = original / "Flicker8k_Dataset"
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (original / "loop").symlink_to("loop")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).touch()
    told = "\n".join(load(original).oddities)
    told.encode()
    assert r"holds 1 without a caption: caf\udce9.jpg" in told


def test_a_caption_file_of_absurd_size_is_refused(original):
    with (original / "Flickr8k.token.txt").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DatasetError, match="1,099,511,627,776 bytes"):
        load(original)


# Data of one's own


def load_own(folder):
    return load_dataset(Settings(dataset="folder", data=folder))


def test_a_folder_of_photographs_with_a_csv_file_is_read(tmp_path):
    write_photos(tmp_path / "mine")
    lines = [f'"{caption_of(photo, 0)}",7,{photo}' for photo in PHOTOS]
    (tmp_path / "captions.csv").write_text("\n".join(["caption,likes,image", *lines]))
    dataset = load_own(tmp_path)
    assert (dataset.name, dataset.photo_folder) == ("folder", tmp_path / "mine")
    assert dataset.references(PHOTOS[:2]) == [[caption_of(photo, 0)] for photo in PHOTOS[:2]]
    assert {split: len(names) for split, names in dataset.splits.items()} == {
        "train": 18, "dev": 3, "test": 3
    }  # fmt: skip


@pytest.mark.parametrize("subfolder", ["", "val2014"])
def test_karpathys_json_is_read_with_its_splits(tmp_path, subfolder):
    write_photos(tmp_path / "images" / subfolder)
    names = {"train": "train", "dev": "val", "test": "test"}
    images = [
        {
            "filename": photo,
            "split": names[split],
            "sentences": [{"raw": caption_of(photo, number)} for number in range(6)],
        }
        | ({"filepath": f"images/{subfolder}"} if subfolder else {})
        for split in SPLITS
        for photo in SPLITS[split]
    ]
    write_json(tmp_path / "dataset_mine.json", {"images": images})
    dataset = load_own(tmp_path)
    assert [Path(photo).name for photo in dataset.splits["dev"]] == SPLITS["dev"]
    photo = dataset.splits["test"][0]
    assert dataset.photo_path(photo).is_file()
    assert dataset.references([photo]) == [[caption_of(PHOTOS[20], k) for k in range(5)]]


def test_names_that_lead_out_of_a_folder_of_ones_own_are_no_photographs(tmp_path):
    write_photos(tmp_path / "data" / "images")
    (tmp_path / "secret.jpg").touch()
    lines = [f"images/{photo},A dog" for photo in PHOTOS * 2]
    outside = [f"{name},A dog" for name in ("../secret.jpg", tmp_path / "secret.jpg")]
    (tmp_path / "data" / "mine.csv").write_text("\n".join(["image,caption", *lines, *outside]))
    with pytest.raises(DatasetError, match=r"2 of them are not in .*secret\.jpg"):
        load_own(tmp_path / "data")


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": [5]}', '{"images": [{"split": "x"}]}'])
def test_other_json_is_refused(tmp_path, content):
    write_photos(tmp_path / "images")
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises((DatasetError, StaleArtefactError), match=r"mine\.json"):
        load_own(tmp_path)


def test_a_folder_of_ones_own_without_captions_is_told_what_is_expected(tmp_path):
    write_photos(tmp_path / "images")
    with pytest.raises(DatasetError, match=r"0 CSV or JSON.*columns image and caption"):
        load_own(tmp_path)


# Reading caption and split files


GOOD = [f"photo{index}.jpg#{number}\tA dog runs ." for index in range(8) for number in range(5)]


def token_file(folder, lines, newline="\n"):
    file = folder / "Flickr8k.token.txt"
    file.write_bytes(newline.join(lines).encode())
    return file


def csv_file(folder, lines):
    file = folder / "captions.txt"
    file.write_text("\n".join(["image,caption", *lines]))
    return file


def test_a_caption_comes_with_its_line_photo_and_number(tmp_path):
    captions, bad = read_captions(token_file(tmp_path, GOOD))
    assert captions.iloc[6].to_dict() == {
        "line": 7,
        "photo": "photo1.jpg",
        "number": 1,
        "caption": "A dog runs .",
    }
    assert (len(captions), bad) == (40, [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("photo9.jpg#0 A dog runs .", "before a tab, found 'photo9.jpg#0 A dog"),
        ("photo9.jpg\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("photo9.jpg#5\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("photo9.jpg#\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("#1\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("photo9.jpg#0\t ", "the caption of photo9.jpg#0 has no word, only ''"),
        ("photo9.jpg#0\t. . _ !", "the caption of photo9.jpg#0 has no word, only '. . _ !'"),
        ("photo9.jpg#0\t" + "dog " * 10_000, "photo9.jpg#0 has 10,000 words, more than 200"),
        ("photo9.jpg#0\tA " + "o" * 200_000, "photo9.jpg#0 has a word of 200,000 letters"),
        ("photo1.jpg#1\tAgain .", "photo1.jpg#1 already appears on line 7"),
    ],
)
def test_a_bad_caption_line_is_skipped_and_named_by_file_and_line(tmp_path, line, reason):
    captions, bad = read_captions(token_file(tmp_path, [*GOOD[:20], line, *GOOD[20:]]))
    assert len(captions) == 40
    assert set(captions["caption"]) == {"A dog runs ."}
    assert len(bad) == 1
    assert bad[0].startswith("Flickr8k.token.txt, line 21: ")
    assert reason in bad[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("photo9.jpg,A dog , that runs", "found 3 fields"),
        ("photo9.jpg", "found 1 fields"),
        ('photo9.jpg,"A dog that runs', "not a line of CSV"),
        ('photo9.jpg," "', "the caption of photo9.jpg has no word, only ''"),
        ('photo9.jpg,". ."', "the caption of photo9.jpg has no word"),
        (",A dog runs", "no name of a photograph"),
    ],
)
def test_a_bad_csv_line_spoils_no_other_line(tmp_path, line, reason):
    good = [f'photo{index}.jpg,"A dog , "" Rex "" , runs ."' for index in range(8)] * 5
    captions, bad = read_captions(csv_file(tmp_path, [*good, line]))
    assert len(captions) == 40
    assert set(captions["caption"]) == {'A dog , " Rex " , runs .'}
    assert sorted(captions["number"].unique()) == [0, 1, 2, 3, 4]
    assert len(bad) == 1
    assert bad[0].startswith("captions.txt, line 42: ")
    assert reason in bad[0]


def test_of_more_than_five_captions_the_first_five_are_taken(tmp_path):
    captions, bad = read_captions(csv_file(tmp_path, ["photo.jpg,A dog"] * 7))
    assert captions["number"].tolist() == [0, 1, 2, 3, 4]
    assert bad == ["captions.txt holds more than 5 captions of a photograph: 2 skipped."]


def test_a_csv_file_without_its_header_is_refused(tmp_path):
    file = csv_file(tmp_path, [])
    file.write_text("photo0.jpg,A dog runs .\n")
    with pytest.raises(DatasetError, match=r"captions\.txt, line 1: expected the header"):
        read_captions(file)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_of_any_system_are_read(tmp_path, newline, mark):
    captions, bad = read_captions(token_file(tmp_path, [mark + GOOD[0], *GOOD[1:], ""], newline))
    assert (len(captions), bad) == (40, [])
    assert captions.iloc[0]["photo"] == "photo0.jpg"
    assert set(captions["caption"]) == {"A dog runs ."}


def test_a_line_in_latin_1_is_skipped_and_utf_8_kept(tmp_path):
    file = token_file(tmp_path, [*GOOD, "photo9.jpg#0\tA café ."])
    file.write_bytes(file.read_bytes() + "\nphoto9.jpg#1\tA café .".encode("latin-1"))
    captions, bad = read_captions(file)
    assert captions.iloc[-1]["caption"] == "A café ."
    assert bad == ["Flickr8k.token.txt, line 42: not UTF-8 text; skipped."]


def test_more_than_a_few_bad_lines_are_another_file(tmp_path):
    bad_lines = ["no tab"] * 2
    assert len(read_captions(token_file(tmp_path, [*GOOD, *bad_lines]))[1]) == 2
    with pytest.raises(DatasetError, match=r"3 of 43 lines are bad.*line 41: expected"):
        read_captions(token_file(tmp_path, [*GOOD, *bad_lines, "no tab"]))


@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "captions.txt"])
@pytest.mark.parametrize("content", ["", "\n \n", "image,caption\n"])
def test_a_file_without_captions_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=name):
        read_captions(tmp_path / name)


def test_a_split_keeps_its_order_and_its_lines(tmp_path):
    file = tmp_path / "Flickr_8k.devImages.txt"
    file.write_bytes(b"\xef\xbb\xbfb.jpg\r\na.jpg \r\n\r\nc.jpg\r\n")
    line_of, bad = read_split(file)
    assert list(line_of.items()) == [("b.jpg", 1), ("a.jpg", 2), ("c.jpg", 4)]
    assert bad == []


def test_a_split_that_names_a_photograph_twice_is_refused_with_both_lines(tmp_path):
    file = tmp_path / "Flickr_8k.devImages.txt"
    file.write_text("b.jpg\na.jpg\nb.jpg\n")
    with pytest.raises(
        DatasetError, match=r"devImages\.txt, line 3: b\.jpg already appears on line 1"
    ):
        read_split(file)


# Fuzzing


def consistent_captions(file):
    """Reads captions and checks what the rest of the project takes for granted; or None."""
    try:
        captions, bad = read_captions(file)
    except DatasetError:
        return None
    assert len(captions) > 0
    assert captions["number"].between(0, 4).all()
    assert not captions.duplicated(["photo", "number"]).any()
    assert captions["photo"].str.strip().ne("").all()
    assert captions["caption"].str.strip().ne("").all()
    assert all(sentence.startswith(file.name) for sentence in bad)
    return captions


def consistent_split(file):
    """Reads a split and checks what the rest of the project takes for granted; or None."""
    try:
        line_of, bad = read_split(file)
    except DatasetError:
        return None
    assert all(name == name.strip() != "" for name in line_of)
    assert list(line_of.values()) == sorted(set(line_of.values()))
    assert all(sentence.startswith(f"{file.name}, line ") for sentence in bad)
    return line_of


class InMemory:
    """The part of a path that the readers use; a disk would take most of the time."""

    def __init__(self, name, content):
        self.name, self.content = name, content

    def stat(self):
        return SimpleNamespace(st_size=len(self.content))

    def read_bytes(self):
        return self.content

    def __str__(self):
        return self.name


def damaged(random, lines):
    """Good lines with some of what happens to files: bytes changed, cut out, doubled, swapped."""
    content = bytearray(b"\n".join(lines))
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        place = random.randrange(len(content) + 1)
        length = random.choice((0, 1, 1, 4, 30))
        new = random.choice((*PIECES, random.randbytes(3), bytes(content[place : place + length])))
        content[place : place + random.choice((0, length))] = new
    return bytes(content[: random.choice((None, None, None, random.randrange(len(content) + 1)))])


PIECES = (b"\t", b"#", b"#0", b"\n", b"\r\n", b"\0", b'"', b",", b"\xe9", b"\xef\xbb\xbf")
MAKERS = {  # file name -> number of inputs, a line, what reads it
    "Flickr8k.token.txt": (2000, "photo{0}.jpg#{1}\tA dog {0} runs .", consistent_captions),
    "captions.txt": (2000, 'photo{0}.jpg,"A dog {0} , runs ."', consistent_captions),
    "Flickr_8k.testImages.txt": (7000, "photo{0}_{1}.jpg", consistent_split),
}


@pytest.mark.parametrize("name", MAKERS)
def test_thousands_of_damaged_files_are_read_or_refused(name):
    """11,000 inputs in all, the same ones each time."""
    count, line, read = MAKERS[name]
    random = Random(name)
    good = [line.format(photo, number).encode() for photo in range(5) for number in range(5)]
    good = [b"image,caption", *good] if name == "captions.txt" else good
    results = [read(InMemory(name, damaged(random, good))) for _ in range(count)]
    refused = sum(result is None for result in results)
    assert 0.02 * count < refused < 0.98 * count  # both ends are reached, and often


@pytest.fixture(scope="session")
def fuzz_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


pieces = st.sampled_from(
    [
        b"image,caption",
        b"photo.jpg",
        b"#0",
        b"#",
        b"\t",
        b",",
        b'"',
        b"\n",
        b"\r",
        b"A dog",
        b"\xe9",
    ]
)
contents = st.one_of(st.binary(), st.text().map(str.encode), st.lists(pieces).map(b"".join))


@hypothesis_settings(deadline=None, max_examples=60)
@given(content=contents, good=st.booleans())
@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "captions.txt"])
def test_any_bytes_are_read_or_refused_as_captions(fuzz_folder, name, content, good):
    file = fuzz_folder / name
    header = [b"image,caption"] if name == "captions.txt" else []
    file.write_bytes(b"\n".join([*header, content]) if good else content)
    consistent_captions(file)


@hypothesis_settings(deadline=None, max_examples=60)
@given(content=contents)
def test_any_bytes_are_read_or_refused_as_a_split(fuzz_folder, content):
    file = fuzz_folder / "Flickr_8k.testImages.txt"
    file.write_bytes(content)
    consistent_split(file)


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
