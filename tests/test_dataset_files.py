"""Reading the caption and split files, with everything that may be wrong in them."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.dataset import read_captions, read_split
from utils.machinery.errors import DatasetError

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
        ("photo9.jpg#0 A dog runs .", "no tab between name and caption"),
        ("photo9.jpg\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("photo9.jpg#5\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("photo9.jpg#\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("#1\tA dog runs .", "expected name.jpg#0 to name.jpg#4"),
        ("photo9.jpg#0\t ", "photo9.jpg#0 has an empty caption"),
        ("photo9.jpg#0\t. . _ !", "the caption of photo9.jpg#0 has no word, only '. . _ !'"),
        ("photo9.jpg#0\t" + "dog " * 10_000, "photo9.jpg#0 has 10,000 words; expected 200"),
        ("photo1.jpg#1\tAgain .", "photo1.jpg#1 stands in line 7 already"),
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
        ('photo9.jpg," "', "photo9.jpg has an empty caption"),
        ('photo9.jpg,". ."', "the caption of photo9.jpg has no word"),
        (",A dog runs", "no name before the comma"),
        ("photo0.jpg,A sixth caption", "photo0.jpg#5 is one too many"),
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
    with pytest.raises(DatasetError, match=r"3 of 43 lines are bad.*line 41: no tab"):
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
    with pytest.raises(DatasetError, match=r"devImages\.txt, line 3: b\.jpg stands in line 1"):
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
    assert all(sentence.startswith(f"{file.name}, line ") for sentence in bad)
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


@settings(deadline=None, max_examples=60)
@given(content=contents, good=st.booleans())
@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "captions.txt"])
def test_any_bytes_are_read_or_refused_as_captions(fuzz_folder, name, content, good):
    file = fuzz_folder / name
    header = [b"image,caption"] if name == "captions.txt" else []
    file.write_bytes(b"\n".join([*header, content]) if good else content)
    consistent_captions(file)


@settings(deadline=None, max_examples=60)
@given(content=contents)
def test_any_bytes_are_read_or_refused_as_a_split(fuzz_folder, content):
    file = fuzz_folder / "Flickr_8k.testImages.txt"
    file.write_bytes(content)
    consistent_split(file)
