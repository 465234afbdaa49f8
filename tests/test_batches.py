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
    """The captions that an epoch of batches holds, put together from inputs and targets."""
    found = []
    for index in range(len(batches)):
        (_, tokens), targets = batches[index]
        for inputs, outputs in zip(tokens, targets, strict=True):
            length = int((outputs != PAD).sum())
            assert (outputs[length:] == PAD).all()
            assert (inputs[length:] == PAD).all()
            assert (inputs[1:length] == outputs[: length - 1]).all()
            found.append([int(inputs[0]), *map(int, outputs[:length])])
    return found


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=60),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_every_caption_comes_exactly_once_an_epoch(lengths, batch_size, seed):
    captions = make_captions(lengths)
    features = np.zeros((1, 2), "float32")
    batches = CaptionBatches(features, [0] * len(captions), captions, batch_size, seed)
    for _ in range(2):
        assert sorted(captions_in(batches)) == sorted(captions)
        batches.on_epoch_end()


def test_a_caption_travels_with_the_features_of_its_own_photograph():
    captions = make_captions([3] * 20)
    rows = np.arange(20) // 5
    features = np.arange(4, dtype="float32")[:, None]
    batches = CaptionBatches(features, rows, captions, batch_size=6, seed=1)
    for index in range(len(batches)):
        (rows_of_batch, tokens), _ = batches[index]
        expected = [(token[1] - 4) // 3 // 5 for token in tokens]
        assert rows_of_batch[:, 0].tolist() == expected


def test_a_later_epoch_has_the_same_batches_whether_or_not_the_earlier_ones_were_seen():
    captions = make_captions(range(3, 40))
    arguments = (np.zeros((1, 2)), [0] * len(captions), captions, 4, 7)
    straight = CaptionBatches(*arguments)
    first = captions_in(straight)
    straight.on_epoch_end()
    resumed = CaptionBatches(*arguments, epoch=1)
    assert captions_in(straight) == captions_in(resumed)
    assert captions_in(resumed) != first


def test_batches_come_in_few_lengths_and_the_first_two_differ():
    captions = make_captions([3, 5, 9, 11, 13] * 20)
    for seed in range(20):
        batches = CaptionBatches(np.zeros((1, 2)), [0] * 100, captions, 5, seed)
        lengths = [batches[index][1].shape[1] for index in range(len(batches))]
        assert set(lengths) <= set(BUCKETS)
        assert lengths[0] != lengths[1]


@given(st.integers(1, 10_000))
def test_a_bucket_holds_the_caption(length):
    assert bucket_length(length) >= length


def test_captions_without_their_rows_are_refused():
    with pytest.raises(ValueError, match="2 photograph rows and 1 captions"):
        CaptionBatches(np.zeros((1, 2)), [0, 0], make_captions([3]))
