import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.batches import BUCKETS, CaptionBatches, bucket_length
from utils.captions import END, PAD, START


def make_captions(lengths):
    """Captions that are all different: the words count on."""
    word = iter(range(4, 100_000))
    return [[START, *(next(word) for _ in range(length)), END] for length in lengths]


def captions_in(batches):
    """The captions that an epoch of batches holds, put together from inputs and targets.

    Returns:
        Pairs of the photograph's features as a tuple and the caption, without what fills up.
    """
    found = []
    for index in range(len(batches)):
        (features, tokens), targets = batches[index]
        assert tokens.shape == targets.shape
        assert len(features) == len(tokens)
        for row, inputs, outputs in zip(features, tokens, targets, strict=True):
            for read, said in zip(inputs, outputs, strict=True):
                length = int((said != PAD).sum())
                assert (said[length:] == PAD).all()
                assert (read[length:] == PAD).all()
                assert (read[1:length] == said[:length][:-1]).all()
                if length:
                    found.append((tuple(row), [int(read[0]), *map(int, said[:length])]))
    return found


@st.composite
def photographs_with_captions(draw):
    """For every caption the row of its photograph, in any order, and its length."""
    pairs = st.tuples(st.integers(0, 12), st.integers(0, 90))
    rows, lengths = zip(*draw(st.lists(pairs, min_size=1, max_size=60)), strict=True)
    return rows, make_captions(lengths)


@settings(deadline=None)
@given(
    photographs_with_captions(),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(0, 5)),
    st.booleans(),
)
def test_every_caption_comes_exactly_once_an_epoch_with_its_own_photograph(
    photographs, batch_size, seed, by_photo
):
    rows, captions = photographs
    features = np.arange(13, dtype="float32")[:, None]
    batches = CaptionBatches(features, rows, captions, batch_size, seed, by_photo=by_photo)
    expected = sorted(((row,), caption) for row, caption in zip(rows, captions, strict=True))
    for _ in range(2):
        assert sorted(captions_in(batches)) == expected
        batches.on_epoch_end()


@settings(deadline=None)
@given(photographs_with_captions(), st.integers(1, 30))
def test_by_photograph_all_captions_of_one_come_together_and_padding_fills_up(
    photographs, batch_size
):
    rows, captions = photographs
    most = max(rows.count(row) for row in rows)
    features = np.arange(13, dtype="float32")[:, None]
    batches = CaptionBatches(features, rows, captions, batch_size, seed=1, by_photo=True)
    seen = []
    for index in range(len(batches)):
        (of_batch, tokens), targets = batches[index]
        assert tokens.shape[1] == most
        assert len(tokens) <= max(1, batch_size // most)
        for row, inputs, outputs in zip(of_batch[:, 0], tokens, targets, strict=True):
            own = rows.count(row)
            assert (inputs[:own, 0] == START).all()
            assert (inputs[own:] == PAD).all()
            assert (outputs[own:] == PAD).all()
        seen += of_batch[:, 0].tolist()
    assert sorted(seen) == sorted(set(rows))


def test_one_by_one_a_photograph_comes_with_each_of_its_captions():
    batches = CaptionBatches(np.zeros((4, 2)), [0, 0, 1, 3], make_captions([3] * 4), batch_size=3)
    assert [batches[index][1].shape for index in range(len(batches))] == [(3, 1, 8), (1, 1, 8)]


@pytest.mark.parametrize("by_photo", [False, True])
def test_half_of_what_comes_is_mirrored_and_another_half_in_the_next_epoch(by_photo):
    rows = np.arange(400) // 2
    features = np.arange(200, dtype="float32")[:, None]
    captions = make_captions([3] * 400)
    arguments = (features, rows, captions, 16, 5)
    batches = CaptionBatches(*arguments, mirrored=features + 1000, by_photo=by_photo)
    mirrored, throws = [], []
    for _ in range(2):
        found = captions_in(batches)
        assert [row % 1000 for (row,), _ in found] == [
            (caption[1] - 4) // 6 for _, caption in found
        ]
        mirrored.append({caption[1] for (row,), caption in found if row >= 1000})
        throws.append([row >= 1000 for (row,), _ in found])
        batches.on_epoch_end()
    assert throws[0] != throws[1]
    assert all(150 < len(words) < 250 for words in mirrored)
    # By photograph both captions see the same image; one by one each has a throw of its own.
    firsts = {word for word in mirrored[0] if (word - 4) % 6 == 0}
    assert (mirrored[0] == firsts | {word + 3 for word in firsts}) == by_photo


@pytest.mark.parametrize("by_photo", [False, True])
def test_a_later_epoch_has_the_same_batches_whether_or_not_the_earlier_ones_were_seen(by_photo):
    captions = make_captions(range(3, 40))
    features = np.arange(19, dtype="float32")[:, None]
    arguments = (features, np.arange(37) // 2, captions, 4, 7)
    options = {"mirrored": features + 1000, "by_photo": by_photo}
    straight = CaptionBatches(*arguments, **options)
    first = captions_in(straight)
    straight.on_epoch_end()
    resumed = CaptionBatches(*arguments, epoch=1, **options)
    assert captions_in(straight) == captions_in(resumed)
    # Other batches, not only other images mirrored.
    assert [caption for _, caption in captions_in(resumed)] != [caption for _, caption in first]


@pytest.mark.parametrize("by_photo", [False, True])
def test_batches_come_in_few_lengths_and_the_first_two_differ(by_photo):
    captions = make_captions([3, 5, 9, 11, 13] * 20)
    for seed in range(20):
        batches = CaptionBatches(
            np.zeros((100, 2)), range(100), captions, 5, seed, by_photo=by_photo
        )
        lengths = [batches[index][1].shape[2] for index in range(len(batches))]
        assert set(lengths) <= set(BUCKETS)
        assert lengths[0] != lengths[1]


@given(st.integers(1, 10_000))
def test_a_bucket_holds_the_caption(length):
    assert bucket_length(length) >= length
