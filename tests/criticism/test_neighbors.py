"""Nearest neighbors by brute force, and copies among samples."""

import chex
import numpy as np
import pytest
from scipy import stats

from jaxgen.criticism import copying_test, nearest_neighbors

RNG = np.random.default_rng(0)


def test_the_nearest_is_found_in_batches_and_a_copy_is_at_distance_zero():
    reference = RNG.integers(0, 256, (50, 6)).astype(np.uint8)
    x = np.concatenate([RNG.integers(0, 256, (7, 6)), reference[3:5]]).astype(np.uint8)
    found = nearest_neighbors(x, reference, batch_size=4)
    apart = np.linalg.norm(x[:, None].astype(float) - reference[None], axis=-1)
    chex.assert_trees_all_equal(found.nearest, apart.argmin(axis=1))
    chex.assert_trees_all_close(found.distance, apart.min(axis=1), rtol=1e-5)
    assert found.distance[-1] == 0.0


def test_a_few_copies_are_found_and_honest_samples_pass():
    train, held_out, samples = (RNG.normal(size=(n, 4)) for n in (300, 300, 500))
    assert copying_test(samples, train, held_out) > 1e-3
    copying = np.concatenate([samples[:450], train[:50]])
    assert copying_test(copying, train, held_out) < 1e-6


@pytest.mark.parametrize(("options", "num_near"), [({}, 5), ({"share": 0.2}, 20)])
def test_the_p_value_is_the_hypergeometric_tail_of_the_nearest(options, num_near):
    held_out, samples = np.arange(2.0, 98.0)[:, None], np.array([[0.0], [0.5], [1.0], [1000.0]])
    found = copying_test(samples, np.array([[-1.0]]), held_out, **options)
    assert found == pytest.approx(stats.hypergeom(100, 4, num_near).sf(2))


def test_no_points_have_no_neighbors_and_nothing_to_look_among_is_refused():
    assert nearest_neighbors(np.zeros((0, 2)), np.zeros((3, 2))).distance.shape == (0,)
    with pytest.raises(ValueError, match="reference must be points of shape"):
        nearest_neighbors(np.zeros((2, 2)), np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"share must be in \(0.0, 1.0\), got 0"):
        copying_test(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), share=0.0)
