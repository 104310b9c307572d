"""Images to label: each cluster once, nothing twice, nothing that has a label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmith.learn.choosing import choose_typical, choose_uncertain, standardised

pytestmark = pytest.mark.long


def clusters(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(size=(len(sizes), 16)) * 5
    return standardised((centres[owner] + rng.normal(size=(len(owner), 16)) * 0.3).astype(np.float32)), owner


def test_typical_images_come_from_every_cluster_without_a_label() -> None:
    vectors, owner = clusters([40, 30, 20, 30, 10])
    labelled = [int(np.flatnonzero(owner == k)[0]) for k in (0, 3)]
    chosen = choose_typical(vectors, labelled, 3)
    assert sorted(owner[chosen]) == [1, 2, 4]
    assert owner[chosen[0]] == 1  # the largest first


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(0, 10), st.integers(30, 60), st.integers(0, 99))
def test_nothing_is_chosen_twice(n: int, labelled: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = standardised(rng.normal(size=(size + labelled, 6)).round(1).astype(np.float32))
    known = list(range(size, size + labelled))
    chosen = choose_typical(vectors, known, n, seed)
    assert len(set(chosen)) == n
    assert not set(chosen) & set(known)
    probabilities = rng.dirichlet(np.ones(4), size=size).astype(np.float32)
    doubtful = choose_uncertain(vectors[:size], probabilities, n, seed)
    assert len(set(doubtful)) == n


def test_equal_images_do_not_stop_it() -> None:
    vectors = standardised(np.ones((30, 4), np.float32))
    assert len(set(choose_typical(vectors, [0, 1], 5))) == 5
    assert len(set(choose_uncertain(vectors, np.full((30, 2), 0.5, np.float32), 5))) == 5


def test_what_is_in_doubt_is_chosen_and_not_the_same_twice() -> None:
    vectors, owner = clusters([50, 50, 50])
    probabilities = np.tile(np.array([0.98, 0.02], np.float32), (150, 1))
    for k in (0, 1):  # of two clusters, ten images each are in doubt
        probabilities[np.flatnonzero(owner == k)[:10]] = (0.51, 0.49)
    chosen = choose_uncertain(vectors, probabilities, 2)
    assert sorted(owner[chosen]) == [0, 1]
    assert (probabilities[chosen, 0] < 0.6).all()
