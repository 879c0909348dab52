"""Samplers: the rules of each, against slow readings of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscam.data.samplers import Balanced, Sampler, make_sampler
from crosscam.errors import DataError, RecipeError

Rows = npt.NDArray[np.int64]
P_BY_K = ["grouped", "balanced", "identity-once", "leading"]
KINDS = [*P_BY_K, "shuffle"]


def labels_of(counts: list[int], seed: int = 0) -> Rows:
    """Labels with gaps between their values, in no order; ``counts`` pictures of each."""
    labels = np.repeat(np.arange(len(counts)) * 3 + 5, counts)
    return np.random.default_rng(seed).permutation(labels).astype(np.int64)


MIXED = labels_of([1, 2, 3, 4, 5, 8, 9, 13])


# --- what holds for all -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", P_BY_K)
@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 14), min_size=4, max_size=12),
    people=st.integers(1, 4),
    images=st.integers(1, 5),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 5),
)
def test_a_batch_is_p_people_with_k_pictures_side_by_side(
    kind: str, counts: list[int], people: int, images: int, epoch: int, seed: int
) -> None:
    labels = labels_of(counts)
    sampler = make_sampler(kind, labels, people, images, seed)
    try:
        batches = sampler.epoch(epoch)
    except DataError:  # MPN's rule leaves no batch of a set that is not larger than one
        assert kind == "balanced"
        assert len(labels) <= people * images
        return
    assert batches.dtype == np.int64
    assert batches.shape == (sampler.steps(epoch), people * images)
    for batch in batches:
        blocks = labels[batch].reshape(people, images)
        assert (blocks == blocks[:, :1]).all()
        assert len(set(blocks[:, 0])) == people
        for rows in batch.reshape(people, images):
            available = (labels == labels[rows[0]]).sum()
            if available >= images:  # nobody is shown twice in a batch without need
                assert len(set(rows)) == images


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_replay_whatever_was_asked_before(kind: str) -> None:
    in_order = make_sampler(kind, MIXED, 3, 2, seed=4)
    expected = [in_order.epoch(e).copy() for e in range(6)]
    assert not np.array_equal(expected[0], expected[1])
    jumping = make_sampler(kind, MIXED, 3, 2, seed=4)
    for epoch in (5, 0, 3, 3, 1, 4, 2, 5):
        np.testing.assert_array_equal(jumping.epoch(epoch), expected[epoch])


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    one, same, other = (make_sampler(kind, MIXED, 3, 2, seed=s).epoch(0) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_global_random_states_are_left_alone(kind: str) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_sampler(kind, MIXED, 3, 2, seed=0).epoch(2)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_single_pictures_need_no_number_of_identities() -> None:
    rows = make_sampler("shuffle", MIXED, 9, 2, seed=0).epoch(0)
    assert rows.shape == (len(MIXED) // 18, 18)
    assert len(np.unique(rows)) == rows.size


@pytest.mark.parametrize("kind", P_BY_K)
def test_fewer_identities_than_p_is_an_error_that_says_what_to_set(kind: str) -> None:
    with pytest.raises(DataError, match=r"needs 9 identities .* has 8\. Set sampler\.people=8"):
        make_sampler(kind, MIXED, 9, 2, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_training_set_is_an_error(kind: str) -> None:
    with pytest.raises(DataError, match=r"has 0|0 training pictures do not fill"):
        make_sampler(kind, np.zeros(0, np.int64), 1, 1, seed=0).epoch(0)


def test_impossible_settings_are_errors() -> None:
    with pytest.raises(RecipeError, match="unknown sampler 'group'; known: grouped, balanced"):
        make_sampler("group", MIXED, 3, 2, seed=0)
    for people, images in ((0, 2), (3, 0), (-1, 4)):
        with pytest.raises(RecipeError, match="1 or more"):
            make_sampler("grouped", MIXED, people, images, seed=0)
    with pytest.raises(RecipeError, match="seed must be 0 or more, got -1"):
        make_sampler("grouped", MIXED, 3, 2, seed=-1)


@pytest.mark.parametrize("kind", ["balanced", "shuffle"])
def test_a_set_smaller_than_a_batch_is_an_error(kind: str) -> None:
    sampler = make_sampler(kind, labels_of([1, 1, 1]), 3, 4, seed=0)
    with pytest.raises(DataError, match="3 training pictures do not fill one batch of 3 x 4"):
        sampler.epoch(0)


@pytest.mark.parametrize("kind", P_BY_K)
def test_an_identity_with_one_picture_repeats_it(kind: str) -> None:
    labels = labels_of([1, 1, 6, 6])
    sampler = make_sampler(kind, labels, 4, 3, seed=0)
    assert sampler.filled == 2
    batch = sampler.epoch(0)[0].reshape(4, 3)
    singles = [rows for rows in batch if (labels == labels[rows[0]]).sum() == 1]
    assert len(singles) == 2
    assert all(len(set(rows)) == 1 for rows in singles)


@pytest.mark.parametrize("kind", P_BY_K)
def test_filling_draws_with_replacement(kind: str) -> None:
    """Of 2 pictures drawn 4 times, all of (0, 4), (1, 3), ... must occur: 1 to 8 odds and more."""
    labels = labels_of([2, 8, 8])
    sampler = make_sampler(kind, labels, 2, 4, seed=0)
    seen = set()
    first = np.flatnonzero(labels == labels.min())[0]
    for epoch in range(200):
        for rows in sampler.epoch(epoch).reshape(-1, 4):
            if labels[rows[0]] == labels.min():
                seen.add(int((rows == first).sum()))
    assert seen == {0, 1, 2, 3, 4}


# --- grouped (torchreid) ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 14), min_size=4, max_size=10),
    people=st.integers(1, 4),
    images=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_grouped_cuts_everybody_into_groups_and_spends_them(
    counts: list[int], people: int, images: int, seed: int
) -> None:
    labels = labels_of(counts)
    batches = make_sampler("grouped", labels, people, images, seed).epoch(0)
    groups = {int(v): max(1, int((labels == v).sum()) // images) for v in set(labels)}
    spent = dict.fromkeys(groups, 0)
    used: list[int] = []
    for batch in batches:
        assert sum(spent[v] < groups[v] for v in groups) >= people  # the rule to go on
        for rows in batch.reshape(people, images):
            label = int(labels[rows[0]])
            spent[label] += 1
            if (labels == label).sum() >= images:
                used += rows.tolist()
    assert all(spent[v] <= groups[v] for v in groups)
    assert sum(spent[v] < groups[v] for v in groups) < people  # the rule to stop
    assert len(used) == len(set(used))  # no picture twice in an epoch, unless it fills


def test_grouped_of_even_groups_shows_every_picture_once() -> None:
    labels = labels_of([6] * 8)
    rows = make_sampler("grouped", labels, 8, 3, seed=1).epoch(0)
    assert rows.shape == (2, 24)
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.arange(48))


def test_grouped_leaves_out_other_pictures_every_epoch() -> None:
    labels = labels_of([5, 5])  # 4 of 5 fit
    sampler = make_sampler("grouped", labels, 2, 4, seed=0)
    left_out = {frozenset(range(10)) - set(sampler.epoch(e).ravel()) for e in range(40)}
    assert {len(left) for left in left_out} == {2}
    assert set().union(*left_out) == set(range(10))


# --- balanced (MPN) ---------------------------------------------------------------------------


def literal_balanced(sampler: Balanced, epochs: int) -> list[list[list[int]]]:
    """The rule word by word, with the same draws.

    Each identity has a shuffled list and a cursor that live on.  For a batch, P identities are
    drawn; one with fewer than K pictures gives K drawn with replacement, any other the next K of
    its list, and as soon as fewer than K are left the list is shuffled again from its start.
    """
    labels, seed = sampler.labels, sampler.seed
    people, images = sampler.people, sampler.images
    pictures = [[i for i in range(len(labels)) if labels[i] == v] for v in sorted(set(labels))]
    start = np.random.default_rng([seed, 0])
    lists = [start.permutation(p).tolist() for p in pictures]
    result = []
    for epoch in range(epochs):
        random = np.random.default_rng([seed, 1, epoch])
        batches: list[list[int]] = []
        produced = 0
        while produced + people * images < len(labels):
            batch: list[int] = []
            for person in random.choice(len(pictures), people, replace=False):
                if len(pictures[person]) < images:
                    batch += random.choice(pictures[person], images).tolist()
                    continue
                for _ in range(images):
                    batch.append(lists[person].pop(0))
                if len(lists[person]) < images:
                    lists[person] = random.permutation(pictures[person]).tolist()
            batches.append(batch)
            produced += len(batch)
        result.append(batches)
    return result


def test_balanced_is_its_rule_word_by_word() -> None:
    sampler = make_sampler("balanced", MIXED, 3, 4, seed=6)
    assert isinstance(sampler, Balanced)
    for epoch, batches in enumerate(literal_balanced(sampler, 8)):
        assert sampler.epoch(epoch).tolist() == batches


@pytest.mark.parametrize(("pictures", "steps"), [(24, 1), (25, 2), (36, 2), (37, 3)])
def test_balanced_stops_before_the_size_of_the_set(pictures: int, steps: int) -> None:
    sampler = make_sampler("balanced", labels_of([pictures - 8, 4, 4]), 3, 4, seed=0)
    assert sampler.steps(0) == steps


def test_balanced_cursors_outlive_the_epoch() -> None:
    """With one identity at a time and long lists, no picture comes twice before a reshuffle."""
    labels = labels_of([40, 40])
    sampler = make_sampler("balanced", labels, 2, 4, seed=0)  # 9 batches an epoch, 10 a pass
    first, second = sampler.epoch(0), sampler.epoch(1)
    for v in sorted(set(labels)):
        passed = [r for r in np.concatenate([first, second[:1]]).ravel() if labels[r] == v]
        np.testing.assert_array_equal(np.sort(passed), np.flatnonzero(labels == v))


# --- identity-once (open-reid, MGN) -----------------------------------------------------------


def test_identity_once_shows_everybody_once() -> None:
    for epoch in range(3):
        rows = make_sampler("identity-once", MIXED, 4, 3, seed=2).epoch(epoch)
        assert rows.shape == (2, 12)
        assert sorted(MIXED[rows.ravel()[::3]]) == sorted(set(MIXED))


def test_identity_once_drops_the_incomplete_batch_but_nobody_for_good() -> None:
    sampler = make_sampler("identity-once", MIXED, 3, 2, seed=2)
    seen: set[int] = set()
    for epoch in range(30):
        assert sampler.steps(epoch) == 2  # 8 identities, 3 at a time
        seen |= set(MIXED[sampler.epoch(epoch).ravel()].tolist())
    assert seen == set(MIXED.tolist())


# --- leading (MSFL) ---------------------------------------------------------------------------


def test_everybody_leads_one_batch_per_epoch() -> None:
    sampler = make_sampler("leading", MIXED, 3, 2, seed=2)
    orders = []
    for epoch in range(3):
        leaders = MIXED[sampler.epoch(epoch)[:, 0]]
        assert sorted(leaders) == sorted(set(MIXED))
        orders.append(leaders.tolist())
    assert orders[0] != orders[1]


def test_leaders_bring_random_companions_of_equal_right() -> None:
    people = np.unique(MIXED)
    sampler, met = make_sampler("leading", MIXED, 3, 2, seed=0), np.zeros((8, 8))
    for epoch in range(150):
        for batch in np.searchsorted(people, MIXED[sampler.epoch(epoch)[:, ::2]]):
            met[batch[0], batch[1:]] += 1
    assert (met.diagonal() == 0).all()
    np.testing.assert_array_equal(met.sum(1), 150 * 2)
    expected = 150 * 2 / 7  # 43 each, standard deviation 5.5
    others = met[~np.eye(8, dtype=bool)]
    assert np.abs(others - expected).max() < 5 * np.sqrt(expected)


# --- shuffle ----------------------------------------------------------------------------------


def test_shuffle_shows_every_picture_at_most_once() -> None:
    sampler = make_sampler("shuffle", MIXED, 3, 2, seed=2)
    rows = sampler.epoch(0)
    assert rows.shape == (len(MIXED) // 6, 6)
    assert len(set(rows.ravel().tolist())) == rows.size


# --- fairness ---------------------------------------------------------------------------------


def draws_per_identity(sampler: Sampler, epochs: int) -> npt.NDArray[np.float64]:
    labels = sampler.labels
    counts = np.zeros(len(sampler.groups))
    order = {int(v): i for i, v in enumerate(sorted(set(labels)))}
    for epoch in range(epochs):
        for label in labels[sampler.epoch(epoch)[:, :: sampler.images].ravel()]:
            counts[order[int(label)]] += 1
    return counts


def test_balanced_draws_identities_alike_whatever_their_size() -> None:
    counts = draws_per_identity(make_sampler("balanced", MIXED, 2, 4, seed=0), 300)
    expected = counts.sum() / len(counts)  # about 375 each, standard deviation 17
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * (1 - 2 / 8))


def test_grouped_draws_identities_by_their_size() -> None:
    labels = labels_of([4, 8, 12, 16, 16])
    counts = draws_per_identity(make_sampler("grouped", labels, 1, 4, seed=0), 20)
    np.testing.assert_array_equal(counts, 20 * np.array([1, 2, 3, 4, 4]))
