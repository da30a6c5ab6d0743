"""Skip-gram and CBOW: gradients by hand, what is drawn, and the same bits however it is shared out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.recommend.item_vectors import (
    Cbow,
    ItemVectors,
    SkipGram,
    _Drawing,
    keep_probability,
    negative_sampling_loss,
    sgd_step,
    window_pairs,
)
from glassbox.recommend.playlists import Item, Playlists, Seen, leave_last_out
from glassbox.recommend.world import World

FAST = {"dimension": 8, "epochs": 2, "negatives": 4, "batch": 100}


@pytest.fixture(scope="module")
def lists() -> Playlists:
    made = World(num_artists=24, songs_per_artist=4, num_playlists=600, longest=10).playlists()
    return leave_last_out(made).train


@pytest.mark.parametrize("width", [1, 6])
def test_a_step_is_autograds_gradient(width: int) -> None:
    """In float64, with repeated items, so that only rounding differs."""
    rng = np.random.default_rng(0)
    vectors = torch.randn(7, 5, dtype=torch.float64)
    outputs = torch.randn(7, 5, dtype=torch.float64)
    inputs = torch.from_numpy(rng.integers(0, 7, (40, width)))
    if width > 1:
        inputs[:, 1:][torch.rand(40, width - 1) < 0.4] = -1
    targets = torch.from_numpy(rng.integers(0, 7, (40, 4)))
    valid = targets != targets[:, :1]
    valid[:, 0] = True
    leaves = [t.clone().requires_grad_() for t in (vectors, outputs)]
    loss = negative_sampling_loss(*leaves, inputs, targets, valid)
    loss.backward()
    expected = [t.detach() - 0.1 * t.grad for t in leaves]
    found = sgd_step(vectors, outputs, inputs, targets, valid, 0.1)
    assert abs(found - float(loss.detach())) < 1e-10
    for ours, theirs in zip((vectors, outputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", [SkipGram(**FAST), Cbow(**FAST)], ids=["skipgram", "cbow"])
def test_the_same_bits_for_any_number_of_workers_and_threads(
    lists: Playlists, spec: SkipGram | Cbow
) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for workers, threads in ((1, 1), (3, 1), (2, 2)):
            torch.set_num_threads(threads)
            made = spec.model_copy(update={"workers": workers}).build(lists, seed=4)
            found.append((made.vectors, made.outputs, made.losses))
    finally:
        torch.set_num_threads(before)
    for vectors, outputs, losses in found[1:]:
        assert torch.equal(vectors, found[0][0])
        assert torch.equal(outputs, found[0][1])
        assert losses == found[0][2]
    assert not torch.equal(spec.build(lists, seed=5).vectors, found[0][0])
    assert found[0][2][-1] < 0.98 * 5 * np.log(2)  # of tables that have learnt nothing


def test_pairs_are_those_within_each_centres_reach() -> None:
    rows = np.array([0, 0, 0, 0, 1, 1, 2])
    reach = np.array([1, 3, 2, 1, 2, 1, 3])
    found = {
        (int(a), int(b))
        for one, two in window_pairs(rows, reach, 3)
        for a, b in zip(one, two, strict=True)
    }
    expected = {
        (c, o)
        for c in range(7)
        for o in range(7)
        if c != o and rows[c] == rows[o] and abs(c - o) <= reach[c]
    }
    assert found == expected


def test_what_is_drawn_follows_the_power_and_the_reach(lists: Playlists) -> None:
    spec = SkipGram(window=4, negatives=8)
    draw = _Drawing(spec, lists, 0, {0: np.arange(len(lists))})
    parts = [draw((0, first)) for first in range(0, len(lists), 256)]
    drawn = np.concatenate([part.outputs[:, 1:].ravel() for part in parts])
    chance = lists.counts**0.75 / (lists.counts**0.75).sum()
    counts = np.bincount(drawn, minlength=lists.num_items)
    deviation = np.sqrt(len(drawn) * chance * (1 - chance))
    assert (np.abs(counts - len(drawn) * chance) < 5 * deviation).all()
    linear = len(drawn) * lists.counts / lists.counts.sum()
    assert (np.abs(counts - linear) > 5 * deviation).any()
    # a reach of 1 ... 4, each as likely: in the middle of long lists 2 * 2.5 neighbours
    middle = sum(
        min(4, place) + min(4, len(one) - 1 - place) for one in lists for place in range(len(one))
    )
    expected = sum(
        sum(min(r, p) + min(r, len(one) - 1 - p) for r in range(1, 5)) / 4
        for one in lists
        for p in range(len(one))
    )
    found = sum(len(part.inputs) for part in parts)
    assert abs(found - expected) < 0.03 * expected < abs(middle - expected)
    for part in parts:
        assert (part.valid[:, 0]).all()
        assert (part.valid[:, 1:] == (part.outputs[:, 1:] != part.outputs[:, :1])).all()


def test_subsampling_keeps_as_often_as_it_says(lists: Playlists) -> None:
    spec = Cbow(sample=2e-3)
    keep = keep_probability(lists.counts, 2e-3)
    frequency = lists.counts / lists.counts.sum()
    np.testing.assert_allclose(
        keep, np.minimum(1, np.sqrt(2e-3 / frequency) + 2e-3 / frequency), rtol=1e-12
    )
    assert keep.min() < 0.7
    total = np.zeros(lists.num_items)
    rounds = 40
    for epoch in range(rounds):
        draw = _Drawing(spec, lists, 0, {epoch: np.arange(len(lists))})
        for first in range(0, len(lists), 256):
            total += np.bincount(draw((epoch, first)).outputs[:, 0], minlength=lists.num_items)
    often = np.argsort(-lists.counts)[:10]  # a kept item without a kept neighbour is left out too
    share = total[often] / (rounds * lists.counts[often])
    np.testing.assert_allclose(share, keep[often], atol=0.04)


def test_unseen_items_have_their_artists_mean_or_are_never_recommended() -> None:
    items = [Item("0", "a", "X"), Item("1", "b", "X"), Item("2", "c", "X"), Item("3", "d", "Y")]
    seen = Seen(items, np.array([5, 3, 0, 0]), 4)
    vectors, outputs = torch.randn(4, 3), torch.randn(4, 3)
    made = ItemVectors(SkipGram(dimension=3), vectors, outputs, seen)
    known = made.item_vectors()
    np.testing.assert_allclose(known[2], vectors[:2].mean(0), rtol=1e-6)
    scores = made.scores([np.array([0])])[0]
    expected = vectors[0] @ outputs[:2].mean(0) + 0.75 * np.log(4.0)
    assert abs(scores[2] - float(expected)) < 1e-5
    assert scores[3] == -np.inf
    alone = ItemVectors(SkipGram(dimension=3, relatives=False), vectors, outputs, seen)
    assert (alone.scores([np.array([0])])[0][2:] == -np.inf).all()
    cosine = ItemVectors(SkipGram(dimension=3, score="cosine"), vectors, outputs, seen)
    own = torch.cosine_similarity(vectors[0], vectors[1], dim=0)
    assert abs(cosine.scores([np.array([0])])[0][1] - float(own)) < 1e-6


def test_tensors_that_do_not_fit_are_refused(lists: Playlists) -> None:
    made = SkipGram(**FAST).build(lists, seed=0)
    with pytest.raises(UserError, match=r"tensor 'vectors' is .* the settings and items say"):
        SkipGram(dimension=9).restore(made.tensors(), lists.seen)
    with pytest.raises(UserError, match="no tensor 'outputs'"):
        SkipGram(**FAST).restore({"vectors": made.vectors}, lists.seen)
    with pytest.raises(UserError, match="dimension"):
        parse(SkipGram, {"dimension": 0})
