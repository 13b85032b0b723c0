"""Splits: complete, repeatable, and never with a recording or a group on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.datasets import DatasetError, Recordings, fsdd, splits
from course_lib.datasets.splits import Split

seeds = st.integers(0, 2**32 - 1)
fractions = st.floats(0.25, 0.75)


def recordings_of(rows: list[tuple[int, str]], **columns: object) -> Recordings:
    table = pd.DataFrame(rows, columns=["label", "group"])
    table["recording"] = [f"r{row}" for row in range(len(rows))]
    table["path"] = table["recording"] + ".wav"
    return Recordings("tiny", table.assign(**columns), tuple("abcd"), 8000, "real")


row = st.tuples(st.integers(0, 3), st.sampled_from("uvwxyz"))
tables = st.lists(row, min_size=2, max_size=60).map(recordings_of)
# Every class twice, and enough of them for one of each on both sides.
twofold = st.lists(row, min_size=8, max_size=30).map(lambda half: recordings_of(half + half))


def names(recordings: Recordings, side: np.ndarray) -> set[str]:
    return set(recordings.table["recording"].to_numpy()[side])


def groups(recordings: Recordings, side: np.ndarray) -> set[str]:
    return set(recordings.table["group"].to_numpy()[side])


def assert_divides(recordings: Recordings, split: Split, whole: np.ndarray | None = None) -> None:
    whole = np.arange(len(recordings)) if whole is None else whole
    assert len(split.train) and len(split.test)
    assert not names(recordings, split.train) & names(recordings, split.test)
    assert sorted([*split.train, *split.test]) == sorted(whole)


@given(twofold, fractions, seeds)
def test_a_random_split_divides_the_recordings_evenly(recordings: Recordings, fraction: float, seed: int) -> None:
    split = splits.random(recordings, fraction, seed, leaky=True)
    assert_divides(recordings, split)
    assert len(split.test) == np.ceil(fraction * len(recordings))
    labels = recordings.table["label"].to_numpy()
    held = Counter(labels[split.test])
    for label, count in Counter(labels).items():
        assert abs(held[label] - count * len(split.test) / len(labels)) <= 1


def test_a_random_split_depends_on_its_seed_alone(recordings: Recordings) -> None:
    first, again, other = (splits.random(recordings, 0.2, seed, leaky=True) for seed in (1, 1, 2))
    assert np.array_equal(first.test, again.test) and np.array_equal(first.train, again.train)
    assert not np.array_equal(first.test, other.test)
    assert first.name == other.name == "random"  # a seed is no other fold


@given(twofold, st.data(), fractions, seeds)
def test_a_random_split_of_some_rows_holds_those_alone(
    recordings: Recordings, data: st.DataObject, fraction: float, seed: int
) -> None:
    half = len(recordings) // 2
    kept = data.draw(st.sets(st.integers(0, half - 1), min_size=8, max_size=half))
    rows = np.array(sorted(row + offset for row in kept for offset in (0, half)))  # every class twice
    split = splits.random(recordings, fraction, seed, rows, leaky=True)
    assert_divides(recordings, split, rows)
    labels = recordings.table["label"].to_numpy()
    held = Counter(labels[split.test])
    for label, count in Counter(labels[rows]).items():
        assert abs(held[label] - count * len(split.test) / len(rows)) <= 1


def test_a_random_split_of_no_rows_is_refused(recordings: Recordings) -> None:
    with pytest.raises(DatasetError, match="of 0 recordings"):
        splits.random(recordings, 0.1, rows=np.array([], dtype=int))


@pytest.mark.parametrize(
    ("speakers", "first"),
    [
        ("george jackson lucas nicolas theo yweweler", "jackson nicolas theo"),
        ("theo zoe adam jackson", "jackson theo"),
        ("zoe eve adam bob", "adam bob eve"),
        ("bob", "bob"),
    ],
)
def test_the_first_release_of_the_digits_had_three_speakers(speakers: str, first: str) -> None:
    recordings = recordings_of([(label, name) for label in range(3) for name in speakers.split()])
    rows = fsdd.of_first_release(recordings)
    table = recordings.table
    assert set(table["group"][rows]) == set(first.split())
    assert len(rows) == 3 * len(first.split()) and sorted(rows) == rows.tolist()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, 0.001])
def test_a_fraction_that_leaves_a_side_empty_is_refused(recordings: Recordings, fraction: float) -> None:
    with pytest.raises(DatasetError):
        splits.random(recordings, fraction, leaky=True)
    with pytest.raises(DatasetError):
        splits.hold_out_validation(recordings, np.arange(len(recordings)), fraction, "recording")


@given(tables)
def test_leaving_one_group_out_tests_every_group_once(recordings: Recordings) -> None:
    everyone = groups(recordings, np.arange(len(recordings)))
    if len(everyone) == 1:
        with pytest.raises(DatasetError, match="one group only"):
            splits.leave_one_group_out(recordings)
        return
    folds = splits.leave_one_group_out(recordings)
    assert sorted(fold.name for fold in folds) == sorted(everyone)
    for fold in folds:
        assert_divides(recordings, fold)
        assert groups(recordings, fold.test) == {fold.name}
        assert fold.name not in groups(recordings, fold.train)


@given(tables, st.data())
def test_lists_are_taken_as_they_are_or_refused(recordings: Recordings, data: st.DataObject) -> None:
    known = st.lists(st.sampled_from(recordings.table["recording"].tolist()), unique=True)
    train, test = data.draw(known), data.draw(known)
    if not train or not test or set(train) & set(test):
        with pytest.raises(DatasetError, match=r"empty|both sides"):
            splits.from_lists(recordings, "mine", train, test, leaky=True)
        return
    split = splits.from_lists(recordings, "mine", iter(train), iter(test), leaky=True)
    assert split.name == "mine"
    assert [f"r{row}" for row in split.train] == train and [f"r{row}" for row in split.test] == test


def test_a_shared_recording_is_named(recordings: Recordings) -> None:
    with pytest.raises(DatasetError, match=r"both sides of split mine contain recording 0_ann_0, 1_bob_1;"):
        splits.from_lists(recordings, "mine", ["1_bob_1", "0_ann_0", "2_ann_0"], ["0_ann_0", "3_bob_0", "1_bob_1"])


def test_an_unknown_recording_is_named(recordings: Recordings) -> None:
    with pytest.raises(DatasetError, match="mine names unknown recordings: 0_zoe_0"):
        splits.from_lists(recordings, "mine", ["0_ann_0"], ["0_zoe_0"])


def test_the_published_split(recordings: Recordings) -> None:
    split = splits.official(recordings, leaky=True)
    assert_divides(recordings, split)
    assert split.name == "official" and (recordings.table["take"][split.test] < 5).all()


def test_a_data_set_without_a_published_split_says_so() -> None:
    with pytest.raises(DatasetError, match="no official split"):
        splits.official(recordings_of([(0, "u"), (1, "v")]))


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_published_split_with_one_side_is_refused(side: str) -> None:
    with pytest.raises(DatasetError, match="is empty"):
        splits.official(recordings_of([(0, "u"), (1, "v")], official=side))


@given(twofold, st.data(), fractions, seeds)
def test_a_validation_part_comes_out_of_the_training_side(
    recordings: Recordings, data: st.DataObject, fraction: float, seed: int
) -> None:
    train = np.array(data.draw(st.permutations(range(len(recordings)))))
    parts = splits.hold_out_validation(recordings, train, fraction, "recording", seed)
    assert_divides(recordings, Split("", *parts), train)


@given(twofold, st.floats(0.1, 0.9), seeds)
def test_a_validation_part_in_groups_has_its_share_of_every_class_of_every_group(
    recordings: Recordings, fraction: float, seed: int
) -> None:
    train = np.arange(len(recordings))
    strata = list(zip(recordings.table["label"], recordings.table["group"], strict=True))
    if sum(round(fraction * count) for count in Counter(strata).values()) in (0, len(train)):
        with pytest.raises(DatasetError, match="is empty"):
            splits.hold_out_validation(recordings, train, fraction, "recording_in_group", seed)
        return
    split = Split("", *splits.hold_out_validation(recordings, train, fraction, "recording_in_group", seed))
    assert_divides(recordings, split)
    held = Counter(strata[row] for row in split.test)
    for stratum, count in Counter(strata).items():
        assert abs(held[stratum] - fraction * count) <= 0.5


def test_flagged_recordings_are_on_neither_side() -> None:
    flags = [row % 5 == 0 for row in range(40)]
    recordings = recordings_of(
        [(row % 2, "uvw"[row % 3]) for row in range(40)], flagged=flags, official=["train", "test"] * 20
    )
    usable = np.flatnonzero(~np.array(flags))
    folds = [
        splits.official(recordings, leaky=True),
        splits.random(recordings, 0.3),
        *splits.leave_one_group_out(recordings),
    ]
    for split in [*folds, *splits.stratified_folds(recordings, 3)]:
        assert_divides(recordings, split, usable)
    asked_for = splits.random(recordings, 0.3, rows=np.arange(40))
    assert_divides(recordings, asked_for)


@given(tables, st.data(), st.floats(0.1, 0.5), seeds)
def test_a_validation_part_by_group_shares_no_group(
    recordings: Recordings, data: st.DataObject, fraction: float, seed: int
) -> None:
    train = np.array(data.draw(st.lists(st.integers(0, len(recordings) - 1), min_size=1, unique=True)))
    table = recordings.table.iloc[train]
    can_go = any(
        set(table["label"][table["group"] != group]) == set(table["label"]) for group in table["group"].unique()
    )
    if not can_go and not table["group"].is_unique:
        with pytest.raises(DatasetError, match="cannot hold out"):
            splits.hold_out_validation(recordings, train, fraction, "group", seed)
        return
    try:
        parts = splits.hold_out_validation(recordings, train, fraction, "group", seed)
    except DatasetError:
        assert table["group"].is_unique  # then each class needs two recordings
        return
    split = Split("", *parts)
    assert_divides(recordings, split, train)
    assert not groups(recordings, split.train) & groups(recordings, split.test)


@given(twofold, st.floats(0.05, 0.5), seeds)
def test_a_random_split_draws_whole_groups_unless_it_is_leaky(
    recordings: Recordings, fraction: float, seed: int
) -> None:
    table = recordings.table
    of_class = table.groupby("label")["group"].unique()
    if not any(all(set(of_any) - {group} for of_any in of_class) for group in table["group"].unique()):
        with pytest.raises(DatasetError, match="every group holds all recordings of a class"):
            splits.random(recordings, fraction, seed)
        return
    split = splits.random(recordings, fraction, seed)
    assert_divides(recordings, split)
    assert not groups(recordings, split.train) & groups(recordings, split.test)
    assert set(table["label"][split.train]) == set(table["label"])


def test_groups_are_drawn_by_seed_with_their_share_of_every_class(caplog: pytest.LogCaptureFixture) -> None:
    rows = [(label, f"{'ab'[label % 2]}{number}") for label in range(4) for number in range(40) for _ in range(5)]
    recordings = recordings_of(rows)
    labels = recordings.table["label"]
    tested = set()
    for seed in range(5):
        split = splits.random(recordings, 0.1, seed)
        assert np.array_equal(split.test, splits.random(recordings, 0.1, seed).test)
        assert labels.iloc[split.test].value_counts().between(15, 25).all()
        tested.add(tuple(split.test))
    assert len(tested) == 5 and not caplog.records


def test_a_class_of_one_group_stays_in_the_training_side_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    recordings = recordings_of([(0, group) for group in "uvw" for _ in range(3)] + [(1, "x")] * 3)
    split = splits.random(recordings, 0.2)
    assert set(recordings.table["label"][split.test]) == {0}
    assert "no recording of b can be held out" in caplog.text


def test_a_class_of_one_recording_is_named() -> None:
    recordings = recordings_of([(0, "u"), (0, "v"), (0, "w"), (2, "x")])
    with pytest.raises(DatasetError, match=r"tiny: cannot hold out 30% .*: there is only one recording of c"):
        splits.random(recordings, 0.3)


def test_a_published_split_may_have_a_validation_side() -> None:
    sides = {"u": "train", "v": "validation", "w": "test"}
    rows = [(label, group) for group in sides for label in (0, 1)]
    recordings = recordings_of(rows, official=[sides[group] for _, group in rows])
    split = splits.official(recordings)
    assert [side.tolist() for side in (split.train, split.validation, split.test)] == [[0, 1], [2, 3], [4, 5]]
    torn = recordings_of([(label, "u") for label, _ in rows], official=recordings.table["official"])
    with pytest.raises(DatasetError, match="both sides of split official contain group u"):
        splits.official(torn)


def test_lists_whose_groups_are_on_both_sides_are_refused_unless_leaky(recordings: Recordings) -> None:
    lists = (["0_ann_0"], ["0_ann_1"])
    with pytest.raises(DatasetError, match=r"contain group ann; .*leaky=True"):
        splits.from_lists(recordings, "mine", *lists)
    assert len(splits.from_lists(recordings, "mine", *lists, leaky=True).test) == 1
    with pytest.raises(DatasetError, match="a recording more than once"):
        splits.from_lists(recordings, "mine", ["0_ann_0", "0_ann_0"], ["0_bob_0"])


@given(tables, st.integers(2, 4), seeds)
def test_grouped_folds_test_every_group_once(recordings: Recordings, n_folds: int, seed: int) -> None:
    try:
        folds = splits.grouped_folds(recordings, n_folds, seed)
    except DatasetError as error:
        assert "too few for" in str(error) or "cannot make" in str(error) or "is empty" in str(error)  # noqa: PT017
        return
    tested = [group for fold in folds for group in groups(recordings, fold.test)]
    assert sorted(tested) == sorted(groups(recordings, np.arange(len(recordings))))
    for fold in folds:
        assert_divides(recordings, fold)


@given(twofold, fractions, seeds)
def test_a_row_given_twice_never_ends_up_on_both_sides(recordings: Recordings, fraction: float, seed: int) -> None:
    train = np.tile(np.arange(len(recordings)), 2)
    try:
        kept, held = splits.hold_out_validation(recordings, train, fraction, seed=seed)
    except DatasetError:
        return
    assert not set(kept) & set(held)


def test_a_validation_part_repeats_with_its_seed(recordings: Recordings) -> None:
    train = np.arange(100, 200)
    for by in ("recording", "recording_in_group", "group"):
        first = splits.hold_out_validation(recordings, train, 0.3, by, seed=5)
        again = splits.hold_out_validation(recordings, train, 0.3, by, seed=5)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_one_group_cannot_be_divided_by_group() -> None:
    recordings = recordings_of([(0, "u"), (1, "u"), (0, "u")])
    with pytest.raises(DatasetError, match="groups"):
        splits.hold_out_validation(recordings, np.arange(3), 0.3, by="group")


def test_an_unknown_way_to_hold_out_is_refused(recordings: Recordings) -> None:
    with pytest.raises(DatasetError, match="not by 'speaker'"):
        splits.hold_out_validation(recordings, np.arange(10), 0.3, by="speaker")


class Leaky:
    """A splitter that puts every other row on each side, groups or not."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def split(self, rows: np.ndarray, *_: object, **__: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)


def test_groupwise_splits_refuse_a_shared_group(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "LeaveOneGroupOut", Leaky)
    monkeypatch.setattr(splits, "StratifiedGroupKFold", Leaky)
    monkeypatch.setattr(splits, "_draw_groups", lambda labels, *_: np.arange(0, len(labels), 2))
    with pytest.raises(DatasetError, match=r"both sides .* contain group ann, bob, cleo"):
        splits.leave_one_group_out(recordings)
    with pytest.raises(DatasetError, match=r"both sides .* contain group ann, bob, cleo"):
        splits.grouped_folds(recordings, 3)
    with pytest.raises(DatasetError, match=r"both sides .* contain group ann, bob, cleo"):
        splits.random(recordings)
    with pytest.raises(DatasetError, match=r"both sides .* contain group ann, bob, cleo"):
        splits.hold_out_validation(recordings, np.arange(len(recordings)), 0.5, by="group")
