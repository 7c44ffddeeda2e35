import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.data._binarization import binarization_key, binarize

NUM_EXAMPLES = 20_000
LEVELS = np.array([1, 26, 128, 200, 254], np.uint8)

draw = jax.jit(binarize)


@pytest.fixture
def bits(key):
    """Bits of 20,000 examples with the same five gray levels."""
    gray = np.tile(LEVELS, (NUM_EXAMPLES, 1))
    return np.asarray(draw(key, gray, np.arange(NUM_EXAMPLES)))


def assert_means(bits):
    for level, column in zip(LEVELS, np.asarray(bits).T, strict=True):
        probability = level / 255
        counts = [np.sum(column == 0), np.sum(column == 1)]
        sampling_checks.assert_frequencies(counts, [1 - probability, probability])


def test_the_probability_of_a_one_is_the_gray_level(bits):
    assert bits.dtype == np.uint8
    assert_means(bits)


def test_a_threshold_or_a_wrong_scale_would_be_seen(bits, key):
    uniforms = np.asarray(jax.random.uniform(key, bits.shape))
    for wrong in (np.tile(LEVELS >= 128, (NUM_EXAMPLES, 1)), uniforms < LEVELS / 256):
        with pytest.raises(AssertionError):
            assert_means(wrong)


def test_black_and_white_are_certain_and_what_is_no_level_gives_no_bit(key):
    levels = np.array([0.0, 1.0, -0.1, 1.1, 200.0, np.nan], np.float32)
    bits = draw(key, np.tile(levels, (NUM_EXAMPLES, 1)), np.arange(NUM_EXAMPLES))
    chex.assert_trees_all_equal(bits, np.tile([0, 1, 255, 255, 255, 255], (NUM_EXAMPLES, 1)))


def test_pixels_and_examples_are_independent(bits):
    pixels = bits[:, 2].astype(np.int64) * 2 + bits[:, 3]
    p, q = 128 / 255, 200 / 255
    expected = [(1 - p) * (1 - q), (1 - p) * q, p * (1 - q), p * q]
    sampling_checks.assert_frequencies(np.bincount(pixels, minlength=4), expected)
    pairs = bits[::2, 2].astype(np.int64) * 2 + bits[1::2, 2]
    expected = [(1 - p) ** 2, (1 - p) * p, p * (1 - p), p**2]
    sampling_checks.assert_frequencies(np.bincount(pairs, minlength=4), expected)


def test_an_image_has_the_same_bits_whatever_batch_it_is_in(key):
    gray = np.random.default_rng(0).integers(0, 256, (12, 30)).astype(np.uint8)
    whole = np.asarray(draw(key, gray, np.arange(12)))
    for chosen in ([3, 4, 5], [11, 3, 0], [5, 5, 5]):
        part = draw(key, gray[chosen], np.array(chosen))
        chex.assert_trees_all_equal(part, whole[chosen])


def test_bits_depend_on_the_index_and_the_key(key):
    gray = np.full((1, 200), 128, np.uint8)
    first = draw(key, gray, np.array([0]))
    assert np.any(first != draw(key, gray, np.array([1])))
    assert np.any(first != draw(jax.random.key(1), gray, np.array([0])))


def test_intensities_and_levels_have_the_same_bits(key):
    gray = np.random.default_rng(0).integers(0, 256, (12, 30)).astype(np.uint8)
    levels = gray.astype(np.float32) / 255
    index = np.arange(12)
    chex.assert_trees_all_equal(draw(key, gray, index), draw(key, levels, index))


def test_images_keep_their_shape_and_bits_when_they_are_not_flat(key):
    gray = np.random.default_rng(0).integers(0, 256, (12, 30)).astype(np.uint8)
    square = draw(key, gray.reshape(12, 5, 6), np.arange(12))
    chex.assert_trees_all_equal(square.reshape(12, 30), draw(key, gray, np.arange(12)))


def test_float64_as_the_default_changes_no_bit(key):
    gray = np.random.default_rng(0).integers(0, 256, (12, 30)).astype(np.uint8)
    expected = draw(key, gray, np.arange(12))
    with jax.enable_x64(True):
        chex.assert_trees_all_equal(draw(key, gray, np.arange(12)), expected)


@pytest.mark.parametrize(
    ("mode", "num_fresh"), [("static", 1), ("per_epoch", 3), ("per_batch", 12)]
)
def test_a_mode_draws_fresh_bits_as_often_as_it_says(key, mode, num_fresh):
    steps = jnp.arange(12)
    traced = jax.vmap(lambda step: jax.random.key_data(binarization_key(key, mode, step, 4)))(steps)
    assert len(np.unique(traced, axis=0)) == num_fresh
    for step in (0, 3, 4, 11):
        chex.assert_trees_all_equal(
            jax.random.key_data(binarization_key(key, mode, step, 4)), traced[step]
        )


def test_a_scan_over_steps_may_use_one_key(key):
    """As a training loop does, under the check for reused keys."""
    gray = np.full((2, 50), 128, np.uint8)

    def step(carry, step):
        bits = binarize(binarization_key(key, "static", step, 4), gray, jnp.arange(2))
        return carry, bits

    _, bits = jax.lax.scan(step, None, jnp.arange(3))
    chex.assert_trees_all_equal(bits[0], bits[1])
    chex.assert_trees_all_equal(bits[0], bits[2])


def test_arguments_that_make_no_sense_are_refused(key):
    gray, index = np.zeros((2, 3), np.uint8), np.arange(2)
    with pytest.raises(TypeError, match="uint8 intensities, got int32"):
        binarize(key, gray.astype(np.int32), index)
    with pytest.raises(TypeError, match="example_index must hold integers"):
        binarize(key, gray, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="example_index must have shape"):
        binarize(key, gray, np.arange(3))
    with pytest.raises(ValueError, match="example_index must have rank 1"):
        binarize(key, gray[0, 0], np.int32(0))
    with pytest.raises(TypeError, match="typed key"):
        binarize(jax.random.PRNGKey(0), gray, index)
    with pytest.raises(ValueError, match="mode must be one of static, per_epoch, per_batch"):
        binarization_key(key, "sometimes", 0, 4)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        binarization_key(key, "per_epoch", 0, 0)
