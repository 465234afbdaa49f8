import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.captions import (
    CAPTION_COLUMNS,
    END,
    PAD,
    RESERVED,
    START,
    UNKNOWN,
    Vocabulary,
    caption_table,
    clean,
    clean_original,
    read_caption_table,
    threshold_table,
)
from utils.dataset import Dataset
from utils.machinery.errors import MissingStageError, StaleArtefactError

RAW = "A man's T-shirt , and 2 dogs ."


def test_published_cleaning_drops_articles_digits_and_punctuation():
    assert clean_original(RAW) == ["mans", "tshirt", "and", "dogs"]


def test_full_cleaning_keeps_articles_digits_and_inner_marks():
    assert clean(RAW) == ["a", "man's", "t-shirt", "and", "2", "dogs"]


@given(st.text())
def test_cleaning_any_text_gives_lower_case_tokens_without_spaces(text):
    for tokens in (clean(text), clean_original(text)):
        assert all(token and token == token.lower() for token in tokens)
        assert not any(mark.isspace() for token in tokens for mark in token)


@given(st.text())
def test_what_was_cleaned_is_clean(text):
    for way in (clean, clean_original):
        assert way(" ".join(way(text))) == way(text)


@given(st.lists(st.text(), max_size=20), st.integers(1, 3), st.text())
def test_any_caption_comes_back_with_its_rare_words_unknown(texts, min_count, new):
    captions = [clean(text) for text in texts]
    vocabulary = Vocabulary.build(captions, min_count)
    counts = Counter(chain.from_iterable(captions))
    assert set(vocabulary.tokens[4:]) == {word for word in counts if counts[word] >= min_count}
    for caption in [*captions, clean(new)]:
        token_ids = vocabulary.encode(caption)
        assert len(token_ids) == len(caption) + 2
        assert vocabulary.decode([*token_ids, PAD, PAD]) == [
            word if counts[word] >= min_count else RESERVED[UNKNOWN] for word in caption
        ]


@given(st.lists(st.lists(st.sampled_from(["a", "dog", "runs", "fast", "the", "ball"]), min_size=1)))
def test_what_a_vocabulary_knows_survives_the_round_trip(captions):
    vocabulary = Vocabulary.build(captions)
    for caption in captions:
        token_ids = vocabulary.encode(caption)
        assert token_ids[0] == START
        assert token_ids[-1] == END
        assert vocabulary.decode(token_ids) == caption


def test_rare_words_become_unknown_and_padding_is_not_spelt_out():
    vocabulary = Vocabulary.build([["a", "dog"], ["a", "cat"]], min_count=2)
    assert vocabulary.tokens == (*RESERVED, "a")
    assert vocabulary.encode(["a", "dog"]) == [START, 4, UNKNOWN, END]
    assert vocabulary.decode([START, 4, PAD, END, 4]) == ["a"]


def test_frequent_words_come_first_and_ties_follow_the_alphabet():
    vocabulary = Vocabulary.build([["b", "a", "c", "c"]])
    assert vocabulary.tokens[4:] == ("c", "a", "b")


def test_a_saved_vocabulary_loads_as_it_was(tmp_path):
    vocabulary = Vocabulary.build([["a", "été"]], cleaning="original")
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary


def test_a_missing_vocabulary_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(MissingStageError, match="notebook 02"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "'format' is 99; expected 1"),
        ({"min_count": "2"}, "'min_count' is .*expected int"),
        ({"tokens": [*RESERVED, ""]}, "'tokens' is"),
        ({"tokens": [*RESERVED, "two words"]}, "'tokens' is"),
        ({"tokens": ["a", "b"]}, "expected"),
        ({"tokens": [*RESERVED, "dog", "dog"]}, "more than once"),
        ({"cleaning": "thorough"}, "thorough"),
    ],
)
def test_an_edited_vocabulary_is_refused_with_what_is_wrong(tmp_path, change, message):
    file = tmp_path / "vocabulary.json"
    Vocabulary.build([["dog"]]).save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(StaleArtefactError, match=message):
        Vocabulary.load(file)


def test_the_caption_table_comes_back_from_its_file_as_it_was(tmp_path):
    # "None" reads like a missing value, and the original cleaning leaves nothing of "A ...".
    # The last photograph's name, and what is said of it, look like numbers.
    texts = ["None of the dogs , runs .", "None", "A ...", "007"]
    captions = pd.DataFrame(
        {"photo": ["b", "b", "a", "01"], "number": [0, 1, 0, 0], "caption": texts}
    )
    splits = {"train": ["b"], "dev": ["a"], "test": ["01"]}
    table = caption_table(Dataset("sample", Path(), captions, splits, "", []))
    table.to_csv(tmp_path / "captions.csv", index=False)

    assert list(table.columns) == CAPTION_COLUMNS
    assert table["split"].tolist() == ["train", "train", "dev", "test"]
    assert table["tokens"].tolist() == ["none of the dogs runs", "none", "a", "007"]
    assert table["original_tokens"].tolist() == ["none of the dogs runs", "none", "", ""]
    pd.testing.assert_frame_equal(read_caption_table(tmp_path / "captions.csv"), table)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("photo,caption\na,b\n", "no column 'split'"),
        (",".join(CAPTION_COLUMNS) + "\n", "no captions"),
        (",".join(CAPTION_COLUMNS) + "\na,middle,0,A dog,a dog,dog\n", "unknown split"),
        (",".join(CAPTION_COLUMNS) + "\na,dev,first,A dog,a dog,dog\n", "no table"),
        (
            ",".join(CAPTION_COLUMNS) + "\na,dev,0,A dog,a dog,dog\na,de",
            "last line is cut|no table",
        ),
    ],
)
def test_a_table_of_captions_that_is_cut_or_another_is_refused(tmp_path, content, finding):
    (tmp_path / "captions.csv").write_text(content)
    with pytest.raises(StaleArtefactError, match=finding):
        read_caption_table(tmp_path / "captions.csv")


def test_the_threshold_table_counts_what_the_training_captions_leave_unknown():
    training = [["a", "dog"], ["a", "cat"]]
    table = threshold_table(training, [["a", "bird"]], thresholds=[1, 2, 3], units=10)

    assert table["words"].tolist() == [len(RESERVED) + known for known in (3, 1, 0)]
    assert table["unknown_share"].tolist() == [0, 0.5, 1]
    assert table["unknown_share_dev"].tolist() == [0.5, 0.5, 1]
    assert table["softmax_parameters"].tolist() == [77, 55, 44]
