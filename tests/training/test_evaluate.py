import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.training._evaluate import evaluate


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (9, 3), (2, 5), (1, 1), (0, 2)])
def test_evaluation_covers_each_example_once_and_in_order(num_examples, batch_size):
    shapes, done = [], []
    data = {"x": np.arange(num_examples), "y": np.arange(2.0 * num_examples).reshape(-1, 2)}

    def fn(batch):
        shapes.append(batch["x"].shape)
        return batch["x"], jnp.asarray(batch["y"]) + 1

    x, y = evaluate(fn, data, batch_size=batch_size, report_fn=done.append)
    chex.assert_trees_all_equal(x, data["x"])
    chex.assert_trees_all_equal(y, data["y"] + 1)
    assert set(shapes) == {(min(batch_size, num_examples),)}
    assert done[-1] == num_examples
    assert len(done) == len(shapes) == max(1, -(-num_examples // batch_size))


def test_a_batch_of_an_evaluation_draws_from_a_key_of_its_own(key):
    def draw(key, x):
        return jax.random.uniform(key, x.shape)

    drawn = evaluate(draw, np.zeros(7), batch_size=3, key=key)
    expected = [jax.random.uniform(jax.random.fold_in(key, i), (3,)) for i in range(3)]
    chex.assert_trees_all_equal(drawn, np.concatenate(expected)[:7])


def test_text_is_not_evaluated_before_it_is_made_symbols():
    with pytest.raises(TypeError, match=r"^data must be an array .* got a str of 5: jaxgen"):
        evaluate(len, "words", batch_size=2)


def test_data_of_several_sizes_are_not_evaluated():
    with pytest.raises(ValueError, match=r"data must be arrays with one leading size, got .*3.*4"):
        evaluate(lambda x: x, {"x": np.zeros(3), "y": np.zeros(4)}, batch_size=2)
    with pytest.raises(TypeError, match=r"data must be an array .* got a list of 3"):
        evaluate(lambda x: x, [np.zeros(4)] * 3, batch_size=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(lambda x: x, np.zeros(3), batch_size=0)


class Interrupted(Exception):
    """What cuts an evaluation off."""


def cut_off_at(count):
    """Twice x, and how often it was asked; stops when asked for the last time."""
    asked = []

    def fn(x):
        asked.append(x.tolist())
        if len(asked) == count:
            raise Interrupted
        return {"twice": 2 * x}, x.sum(1)

    return fn, asked


X = np.arange(20.0, dtype=np.float32).reshape(10, 2)


def test_an_evaluation_that_was_cut_off_goes_on(tmp_path):
    fn, _ = cut_off_at(4)
    with pytest.raises(Interrupted):
        evaluate(fn, X, batch_size=2, directory=tmp_path)
    fn, asked = cut_off_at(-1)
    twice, total = evaluate(fn, X, batch_size=2, directory=tmp_path)
    chex.assert_trees_all_equal(twice["twice"], 2 * X)
    chex.assert_trees_all_equal(total, X.sum(1))
    assert len(asked) == 3  # the first, for the structure, and two that were missing
    fn, asked = cut_off_at(-1)
    evaluate(fn, X, batch_size=2, directory=tmp_path)
    assert len(asked) == 1


def test_what_was_kept_and_is_damaged_is_computed_again(tmp_path):
    evaluate(lambda x: x, X, batch_size=2, directory=tmp_path)
    for name, change in (
        ("2", lambda b: b[: len(b) // 2]),
        ("3", lambda b: b.replace(b"\x80?", b"\x81?")),
    ):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(change(path.read_bytes()))
    (tmp_path / "4.npz").write_bytes(b"")
    found = evaluate(lambda x: x, X, batch_size=2, directory=tmp_path)
    chex.assert_trees_all_equal(found, X)


@pytest.mark.parametrize(
    "change",
    [
        {"data": X + 1},
        {"batch_size": 5},
        {"depends_on": {"w": np.ones(2)}},
        {"key": jax.random.key(1)},
    ],
)
def test_what_was_kept_of_another_evaluation_is_refused(tmp_path, change):
    arguments = {
        "data": X,
        "batch_size": 2,
        "depends_on": {"w": np.zeros(2)},
        "directory": tmp_path,
    }
    evaluate(lambda x: x, **arguments)
    with pytest.raises(ValueError, match=r"directory must be of the same evaluation, got .*other"):
        evaluate(lambda *x: x[-1], **{**arguments, **change})
