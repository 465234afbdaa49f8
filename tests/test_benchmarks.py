import numpy as np
import pytest

from benchmarks import growth, original, stages
from benchmarks.bench import table
from benchmarks.figure import draw, ratios
from benchmarks.measure import alternate, matrix_product, peak_memory
from utils.captions import END, START, read_caption_table
from utils.decoder import build_decoder

A, DOG, RUNS = 4, 5, 6
CAPTION = [START, A, DOG, RUNS, END]


class Scripted:
    """In place of a model: says `CAPTION` word by word, or a duller one with more confidence."""

    def predict(self, inputs, verbose):
        _, prefixes = inputs
        rows = np.full((len(prefixes), 7), 1e-6)
        for row, prefix in zip(rows, prefixes, strict=True):
            said = prefix[prefix > 0].tolist()
            if said == CAPTION[: len(said)]:
                row[CAPTION[len(said)]] = 0.6
            if said == [START]:
                row[RUNS] = 0.3
            if said == [START, RUNS]:
                row[END] = 1.0
        return rows


def test_a_step_of_the_original_recipe_holds_every_prefix_once():
    (inputs, targets), *rest = original.steps(
        np.ones((1, 3)), [[CAPTION, [START, DOG, END]]], length=6, vocabulary_size=7
    )
    assert not rest
    features, prefixes = inputs
    assert features.shape == (6, 3)
    assert prefixes.tolist()[2] == [0, 0, 0, START, A, DOG]
    assert targets.argmax(1).tolist() == [A, DOG, RUNS, END, DOG, END]
    assert targets.shape == (6, 7)


def test_one_predict_a_word_finds_what_is_most_probable():
    image = np.ones(3)
    assert original.describe(Scripted(), image, 6) == [A, DOG, RUNS]
    # Of a beam the best mean wins: 0.6 four times is less than 0.3 and 1.
    assert original.describe(Scripted(), image, 6, beam=2) == [A, DOG, RUNS]
    assert original.describe(Scripted(), image, 6, max_tokens=2) == [A, DOG]


def test_sides_take_turns_and_the_first_round_does_not_count():
    calls = []

    def side(name):
        def work(number):
            calls.append((number, name))
            return 10

        return work

    found = alternate({"one": side("one"), "other": side("other")}, rounds=3)
    assert calls == [(number, name) for number in range(4) for name in ("one", "other")]
    assert found["one"]["lowest"] <= found["one"]["rate"] <= found["one"]["highest"]


def test_arithmetic_is_counted_as_by_hand():
    merge = build_decoder("merge", 10, (7,), embedding_units=3, units=5)
    lstm, hidden, logits, image = 4 * 5 * (3 + 5), 5 * 5, 5 * 10, 7 * 5
    expected = 3 * 2 * (lstm + hidden + logits + 0.02 * image)
    assert stages.operations_per_token(merge, 0.02) == pytest.approx(expected)

    attention = build_decoder(
        "attention", 10, (2, 2, 7), embedding_units=3, units=4, heads=2, tied=True
    )
    lstm, looks, hidden, word, logits = 4 * 4 * (3 + 4), 3 * 4 * 4, 8 * 4, 4 * 3, 3 * 10
    image = 4 * (7 * 4 + 4 * 4) + 7 * 3
    expected = 3 * 2 * (lstm + looks + hidden + word + logits + 0.02 * image)
    assert stages.operations_per_token(attention, 0.02) == pytest.approx(expected)


def test_a_matrix_product_says_how_much_it_computed():
    assert matrix_product("float32", size=8, times=2)(0) == 2 * 2 * 8**3
    assert peak_memory() > 50


def made_up_results():
    epochs = {
        "original, by prefixes": 900.0,
        "same size and vocabulary": 30.0,
        "same size, default vocabulary": 15.0,
        "default recipe, merge": 45.0,
    }
    side = {"rate": 10.0, "lowest": 9.0, "highest": 11.0}
    training = {name: side | {"seconds_per_epoch": value} for name, value in epochs.items()}
    search = {}
    for beam in (1, 3, 5):
        search[f"one predict a word, beam {beam}"] = side
        search[f"ours, beam {beam}"] = side | {"rate": 2000.0}
    names = ("one predict a photograph", "ours", "the CNN alone")
    rows = [{"photographs": n, "seconds": n / 10, "megabytes": 900 + n} for n in (10, 20, 40)]
    growing = ("extraction", "training merge", "training attention", "search")
    return {
        "training": training | {"megabytes": 1000.0},
        "search": search | {"megabytes": 1000.0},
        "extraction": dict.fromkeys(names, side) | {"megabytes": 1000.0},
        "growth": dict.fromkeys(growing, rows),
    }


def test_ratios_are_of_sides_of_one_run(tmp_path):
    results = made_up_results()
    found = ratios(results)
    assert found["epoch, same size and vocabulary"] == 30
    assert found["search, beam 5"] == 200
    assert found["extraction"] == 1
    draw(results, tmp_path / "benchmark.svg")
    assert "<path" in (tmp_path / "benchmark.svg").read_text()
    assert "900.0 s an epoch" in table("training", results["training"])


def test_what_grows_is_measured_on_data_that_a_run_would_take(tmp_path):
    growth.make_data(tmp_path, photographs=40)
    for step in growth.STEPS.values():
        assert step(tmp_path) >= 0
    table = read_caption_table(tmp_path / "captions.csv")
    assert len(table) == 40 * 5
    assert set(table["split"]) == {"train", "dev", "test"}
    assert "xception" in growth.table_of_features(1_000_000)
    assert "409.6 GB" in growth.table_of_features(1_000_000)  # 10 x 10 x 2,048 float16
