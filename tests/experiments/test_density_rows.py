"""The rows of the density table that no test can afford to run fit together all the same."""

import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxgen as jg
from experiments import _density_real as real
from experiments import _tables, density_estimation
from experiments._density_binary import log_prob, moved
from experiments._density_rows import AnyOrder, BinaryRow, Recipe, order_of
from experiments._density_table import ROWS
from experiments._density_training import loss_fn
from jaxgen.data._binary import SETS


@pytest.mark.usefixtures("distrax_broadcasting")
def test_a_row_over_real_numbers_runs_in_its_smoke_form(tmp_path):
    config = density_estimation.Config(row="uci/smoke", is_smoke=True, run_dir=tmp_path / "run")
    metrics = density_estimation.main(config)
    assert np.isfinite(metrics["uci/smoke/test_log_prob"].value)
    assert metrics["uci/smoke/epochs"].value == 2


def test_members_of_a_fold_validate_on_parts_of_their_own_and_never_see_the_test():
    x = np.random.default_rng(0).normal(2.0, 3.0, (50, 2))
    table = jg.data.Table("made", ("a", "b"), x)
    members = [real.standardized_fold(table, 3, m) for m in range(9)]
    rows = [{tuple(np.round(row, 9)) for part in member[:2] for row in part} for member in members]
    assert all(seen == rows[0] for seen in rows)
    assert not rows[0] & {tuple(np.round(row, 9)) for row in members[0].test}
    valid = np.concatenate([member.valid for member in members])
    assert len(np.unique(valid, axis=0)) == len(valid) == 45
    seen = np.concatenate(members[0][:2])
    chex.assert_trees_all_close(
        np.array([seen.mean(axis=0), seen.std(axis=0)]),
        np.array([[0, 0], [1, 1]]),
        atol=1e-12,
        rtol=1e-7,
    )


def test_the_normal_row_is_the_normal_of_greatest_likelihood():
    x = np.random.default_rng(0).normal(size=(30, 2)) @ np.array([[1.0, 0.4], [0.0, 2.0]])
    mean, covariance = x.mean(axis=0), (x - x.mean(axis=0)).T @ (x - x.mean(axis=0)) / 30
    expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(x)
    chex.assert_trees_all_close(real.normal_log_prob(x.astype(np.float32), x), expected, rtol=1e-4)


def test_views_of_a_patch_are_eight_linear_maps_that_keep_volume():
    maps = np.stack([view.T for view in real.views(np.eye(15))])
    chex.assert_trees_all_close(np.abs(np.linalg.det(maps)), np.ones(8), rtol=1e-9)
    assert len({one.tobytes() for one in np.rint(maps)}) == 8
    patch = np.arange(16.0) - 7.5
    turned = np.rot90(patch.reshape(4, 4)).ravel()[:-1]
    assert any(np.allclose(one @ patch[:-1], turned) for one in maps)


def test_a_model_for_any_order_is_judged_by_the_mixture_that_it_was_stopped_by():
    model = AnyOrder(jg.MADE(3, 2, (5,), has_direct_connections=True), num_orders=3)
    x = np.indices((2, 2, 2)).reshape(3, -1).T
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(random.normal(size=a.shape), jnp.float32),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )
    stopped_by = jax.jit(model.log_prob)(params, x)
    assert abs(np.exp(stopped_by).sum() - 1) < 1e-5
    row = BinaryRow("nltcs", (Recipe(model, 1),), orders=(0, 1, 2))
    fitted = (jg.training.FitResult(params, 0.0, 1, 1),)
    committees = [moved(fitted, number, 3) for number in row.orders]
    chex.assert_trees_all_close(log_prob(row, committees, x), stopped_by, atol=1e-5, rtol=1e-7)
    dropped = jax.jit(model.log_prob)
    losses = {float(dropped(params, x, dropout_key=jax.random.key(k))[3]) for k in range(4)}
    assert len(losses) > 1


def test_orders_are_permutations_and_the_first_is_the_natural_one():
    assert order_of(0, 5).tolist() == [0, 1, 2, 3, 4]
    assert order_of(-1, 5).tolist() == [4, 3, 2, 1, 0]
    drawn = [tuple(order_of(k, 9)) for k in (1, 2, 3)]
    assert len(set(drawn)) == 3
    assert all(sorted(order) == list(range(9)) for order in drawn)


def test_the_mixture_over_orders_is_a_distribution():
    """Summed over all of its space, as it is judged: a wrong order anywhere loses mass or gains."""
    models = jg.MADE(3, 2, (4,)), jg.NADE(3, 2, 3)
    row = BinaryRow("nltcs", tuple(Recipe(model, 1) for model in models), orders=(0, 1, 2))
    x = np.indices((2, 2, 2)).reshape(3, -1).T
    fitted = [
        types.SimpleNamespace(params=jax.jit(model.init)(jax.random.key(k), x))
        for k, model in enumerate(models * 3)
    ]
    committees = [fitted[i : i + 2] for i in (0, 2, 4)]
    total = np.exp(log_prob(row, committees, x.astype(np.uint8))).sum()
    assert abs(total - 1) < 1e-5


@pytest.mark.usefixtures("distrax_broadcasting")
@pytest.mark.parametrize("name", [name for name in ROWS if "smoke" not in name])
def test_a_row_fits_its_data_and_has_a_gradient(name, key):
    """Traced, not computed."""
    row = ROWS[name]
    recipes = row.recipes if isinstance(row, BinaryRow) else filter(None, [row.recipe])
    num_dims = {"red_wine": 11, "white_wine": 11, "parkinsons": 15, "bsds300": 63}
    for recipe in recipes:
        size = num_dims[row.data] if row.data in num_dims else SETS[row.data].num_dims
        x = jnp.zeros((4, size), jnp.int32 if row.data in SETS else jnp.float32)
        params = jax.eval_shape(recipe.model.init, key, x)
        gradient_fn = jax.grad(loss_fn(recipe.model), argnums=1)
        gradient = jax.eval_shape(gradient_fn, key, params, x, jnp.zeros(()))
        assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    assert name.split("/")[-2] == row.data
    assert row.reference


def test_the_table_of_log_probabilities_says_so():
    metric = {"value": -6.0, "standard_error": 0.05, "split": "test"}
    metrics = {"a/b/test_log_prob": metric, **{f"a/b/{k}": metric for k in ("epochs", "minutes")}}
    run = {"command": "run", "device": "cpu", "commit": "c" * 40}
    rows = {"a/b": {"reference": "-6.10", "command": "run", "run": run}}
    results = {"metrics": metrics | {"a/b/num_params": metric}, "rows": rows}
    text = _tables.table(results)
    assert "| row | test log p |" in text
    assert "| a/b | -6.00 ± 0.05 | -6.10 |" in text
