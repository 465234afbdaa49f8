import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.captions import END, PAD, RESERVED, START, UNKNOWN, Vocabulary, clean, clean_published
from utils.errors import MissingStageError, StaleArtefactError

RAW = "A man's T-shirt , and 2 dogs ."


def test_published_cleaning_drops_articles_digits_and_punctuation():
    assert clean_published(RAW) == ["mans", "tshirt", "and", "dogs"]


def test_full_cleaning_keeps_articles_digits_and_inner_marks():
    assert clean(RAW) == ["a", "man's", "t-shirt", "and", "2", "dogs"]


@given(st.text())
def test_cleaning_any_text_gives_lower_case_tokens_without_spaces(text):
    for tokens in (clean(text), clean_published(text)):
        assert all(token and token == token.lower() for token in tokens)
        assert not any(mark.isspace() for token in tokens for mark in token)


@given(st.lists(st.lists(st.sampled_from("a dog runs fast the ball".split()), min_size=1)))
def test_what_a_vocabulary_knows_survives_the_round_trip(captions):
    vocabulary = Vocabulary.build(captions)
    for caption in captions:
        numbers = vocabulary.encode(caption)
        assert numbers[0] == START
        assert numbers[-1] == END
        assert vocabulary.decode(numbers) == caption


def test_rare_words_become_unknown_and_padding_is_not_spelt_out():
    vocabulary = Vocabulary.build([["a", "dog"], ["a", "cat"]], min_count=2)
    assert vocabulary.tokens == (*RESERVED, "a")
    assert vocabulary.encode(["a", "dog"]) == [START, 4, UNKNOWN, END]
    assert vocabulary.decode([START, 4, PAD, END, 4]) == ["a"]


def test_frequent_words_come_first_and_ties_follow_the_alphabet():
    vocabulary = Vocabulary.build([["b", "a", "c", "c"]])
    assert vocabulary.tokens[4:] == ("c", "a", "b")


def test_a_saved_vocabulary_loads_as_it_was(tmp_path):
    vocabulary = Vocabulary.build([["a", "été"]], cleaning="published")
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary


def test_a_missing_vocabulary_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(MissingStageError, match="notebook 02"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
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
