"""One call for all that can be asked of a fitted model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxgen.core._checks import (
    check_count,
    check_in_range,
    check_integer_array,
    check_key,
    check_rank,
)
from jaxgen.core._conditional import stepped_cdf
from jaxgen.core._contracts import AutoregressiveModel, LatentVariableModel
from jaxgen.core._types import Array, Key, Params
from jaxgen.criticism._findings import Criticism, Finding, criticism, of_p_values, of_tilt
from jaxgen.criticism._neighbors import copying_test
from jaxgen.criticism._simulation import simulation_based_calibration
from jaxgen.criticism._tilt import best_tilt
from jaxgen.criticism._two_sample import mean_test, mmd_test
from jaxgen.criticism._uniforms import conditional_log_probs, uniformity, uniforms
from jaxgen.samplers._ancestral import sample


def criticise(
    key: Key,
    model: AutoregressiveModel | LatentVariableModel,
    params: Params,
    x: Any,
    *,
    context: Any = None,
    train: Any = None,
    image_shape: tuple[int, int] | None = None,
    num_samples: int = 1000,
    level: float = 0.01,
    batch_size: int = 100,
) -> Criticism:
    r"""Ask whether a fitted model is believable, and what is wrong with it if not.

    Of an autoregressive model, each conditional by what it gets wrong on average
    (`best_tilt`): in its level, its surprise (nats paid against entropy predicted) and its symbols,
    by coordinate, row, column and label; and all of them together by the map run backwards to
    uniforms (`rosenblatt`, `uniformity`). Of one over reals or columns of several kinds the latter
    alone, of data and of its own draws. Of a latent-variable model, its posterior by simulation
    (`simulation_based_calibration`) and its aggregate posterior beside the prior, where latents are
    continuous and there is no context. Of both, samples beside data (`mean_test`, `mmd_test`), and
    whether samples copy training data (`copying_test`).

    Args:
      key: a typed key.
      model: a model under either contract.
      params: parameters of the model.
      x: data that the model was not trained on, `[N, D]`, integers for a model over symbols; memory
        then grows with N D V.
      context: what the model is conditioned on, an array `[N, ...]`; integers `[N]` are labels.
      train: what the model was trained on, `[T, D]`, for copies; None looks for none.
      image_shape: (H, W) with D = H W, to look at rows and columns as well.
      num_samples: draws of the model; for a context as many as its data, at most this.
      level: the chance that a right model is called wrong is at most this, about: p-values of sums
        over many conditionals are exact only in the limit of many data points.
      batch_size: data points in a pass through the model.

    Returns:
      `Criticism`; print it.

    Raises:
      TypeError: a model under neither contract.
      ValueError: a shape does not fit, or there are fewer than 10 points.
    """
    check_key(key)
    check_rank("x", x, 2)
    check_count("the number of points of x", len(x), minimum=10)
    check_count("num_samples", num_samples, minimum=10)
    check_in_range("level", level, 0.0, 1.0, open_lower=True, open_upper=True)
    if image_shape is not None and np.prod(image_shape) != x.shape[1]:
        raise ValueError(f"image_shape must have {x.shape[1]} pixels, got {image_shape}")
    x = np.asarray(x)
    keys = jax.random.split(key, 4)
    rows = None if context is None else np.arange(num_samples) % len(x)
    told = None if rows is None else jnp.asarray(context)[rows]
    if not isinstance(model, AutoregressiveModel | LatentVariableModel):
        raise TypeError(
            "model must be an AutoregressiveModel or a LatentVariableModel, "
            f"got {type(model).__name__}"
        )
    drawn = np.asarray(_drawn(keys[0], model, params, told, num_samples=num_samples))
    if isinstance(model, AutoregressiveModel) and model.num_symbols is None:
        u = uniforms(keys[1], model, params, x, context=context, batch_size=batch_size)
        own = uniforms(keys[3], model, params, drawn, context=told, batch_size=batch_size)
        findings = [*of_uniforms(u), *of_uniforms(own, "sampler's ")]
        x, drawn, train = _standardized(x, x), _standardized(drawn, x), _standardized(train, x)
    elif isinstance(model, AutoregressiveModel):
        check_integer_array("x", x)
        log_probs = conditional_log_probs(model, params, x, context=context, batch_size=batch_size)
        own = conditional_log_probs(model, params, drawn, context=told, batch_size=batch_size)
        levels = np.arange(log_probs.shape[-1])
        findings = [
            *of_conditionals(keys[1], log_probs, x, context, image_shape),
            of_tilt("sampler's level", best_tilt(own, drawn, levels), len(drawn), "coordinate"),
            temperature("sampler's temperature", own, drawn),
        ]
    else:
        findings = of_latents(keys[1], model, params, x, context, num_samples)
    findings += beside_data(keys[2], x, drawn, train, is_paired=told is not None)
    return criticism(findings, level)


def of_conditionals(
    key: Key,
    log_probs: np.ndarray,
    x: np.ndarray,
    context: Any,
    image_shape: tuple[int, int] | None,
) -> list[Finding]:
    """Return what an autoregressive model's conditionals at the data show."""
    num_points, num_dims = x.shape
    levels = np.arange(log_probs.shape[-1])
    places: list[tuple[str, str, np.ndarray | None]] = [("", "coordinate", None)]
    if image_shape is not None:
        row, column = np.divmod(np.arange(num_dims), image_shape[1])
        places += [(" of rows", "row", row), (" of columns", "column", column)]
    if context is not None and np.shape(context) == (num_points,):
        places.append((" of labels", "label", np.asarray(context)[:, None]))
    findings = []
    for name, place, groups in places:
        for kind, statistic in (("level", levels), ("surprise", -log_probs)):
            tilt = best_tilt(log_probs, x, statistic, groups)
            findings.append(of_tilt(kind + name, tilt, num_points, place))
    findings += [temperature("temperature", log_probs, x), _symbols(log_probs, x)]
    v = jax.random.uniform(key, x.shape)
    return [*findings, *of_uniforms(jax.jit(stepped_cdf)(log_probs, x, v))]


def of_uniforms(u: Any, whose: str = "") -> list[Finding]:
    """Return what the uniforms `[N, D]` show that data come from."""
    num_dims = np.shape(u)[1]
    found = uniformity(u)
    num_pairs = num_dims * (num_dims - 1) // 2
    return [
        of_p_values(f"{whose}uniforms", found.coordinate, "coordinate"),
        of_p_values(f"{whose}pairs of uniforms", found.pair, "coordinates", max(num_pairs, 1)),
        of_p_values(f"{whose}sum of scores", np.array(found.total), "over all coordinates"),
        of_p_values(f"{whose}spread of scores", np.array(found.spread), "over all coordinates"),
    ]


def _standardized(x: Any, like: np.ndarray) -> Any:
    """Return columns in the units of those of `like`; None of None."""
    if x is None:
        return None
    deviation = like.std(axis=0)
    return (np.asarray(x) - like.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def temperature(name: str, log_probs: np.ndarray, x: np.ndarray) -> Finding:
    """Return the finding of one temperature for all: nats paid against the entropy predicted."""
    tilt = best_tilt(log_probs, x, -log_probs, np.zeros(1, int))
    paid = -np.take_along_axis(log_probs, x[..., None], -1).sum() / len(x)
    finite = np.where(np.isneginf(log_probs), 0.0, log_probs)
    predicted = -np.sum(np.exp(log_probs) * finite) / len(x)
    finding = of_tilt(name, tilt, len(x), "")
    fitted = 1 / (1 - min(tilt.tilt[0], 0.99))
    where = f"{paid:.3f} nats paid, {predicted:.3f} predicted, temperature {fitted:.3f} fits"
    return finding._replace(where=where)


def _symbols(log_probs: np.ndarray, x: np.ndarray) -> Finding:
    """Return the finding of each symbol's count over all coordinates."""
    everywhere = np.zeros(1, int)
    tilts = []
    for symbol in range(log_probs.shape[-1]):
        log_p = np.minimum(log_probs[..., symbol].astype(np.float64), -1e-15)
        log_rest = np.log(-np.expm1(log_p))
        pair = np.stack([log_rest, log_p], axis=-1)
        tilts.append(best_tilt(pair, (x == symbol).astype(int), np.arange(2), everywhere))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *tilts)
    return of_tilt("symbols", joined, len(x), "symbol")


def of_latents(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: np.ndarray,
    context: Any,
    num_samples: int,
) -> list[Finding]:
    """Return what the posterior shows; nothing of discrete latents, or given a context."""
    posterior_key, prior_key, simulation_key, test_key = jax.random.split(key, 4)
    z = _flat(model.posterior(params, jnp.asarray(x), context=context).sample(seed=posterior_key))
    if z is None or context is not None:
        return []
    prior = model.prior(params).sample(seed=prior_key, sample_shape=(num_samples,))
    ranks = simulation_based_calibration(simulation_key, model, params, num_simulations=num_samples)
    test = mean_test(test_key, z, _flat(prior), statistic_fn=lambda z: np.stack([z, z**2], 1))
    entries = [f"{what} of unit {i}" for what in ("mean", "square") for i in range(z.shape[1])]
    return [
        of_p_values("posterior", uniformity(ranks).coordinate, "unit"),
        _of_means("aggregate posterior", test.z, test.p_value, entries),
    ]


def beside_data(
    key: Key, x: np.ndarray, drawn: np.ndarray, train: Any, *, is_paired: bool
) -> list[Finding]:
    """Return how samples differ from data, in means and altogether, and whether they are copies."""
    choose_key, mean_key, mmd_key = jax.random.split(key, 3)
    order = np.arange(len(x))
    if not is_paired:  # then any points will do, and the first need not be like the rest
        order = np.asarray(jax.random.permutation(choose_key, order))
    beside = x[order[: len(drawn)]]
    test = mean_test(mean_key, x[order[: 4 * len(drawn)]], drawn, statistic_fn=_means)
    num_dims = x.shape[1]
    entries = [f"coordinate {i}" for i in range(num_dims)]
    entries += [f"square of coordinate {i}" for i in range(num_dims)]
    entries += [f"product of coordinates {i} and {i + 1}" for i in range(num_dims - 1)]
    p_value = mmd_test(mmd_key, beside, drawn).p_value
    findings = [
        _of_means("samples beside data", test.z, test.p_value, entries),
        of_p_values("distance of samples from data", np.array(p_value), "over all coordinates"),
    ]
    if train is not None:
        copied = np.array(copying_test(drawn, train, x))
        findings.append(of_p_values("copies of training data", copied, "nearest samples"))
    return findings


def _means(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return np.concatenate([x, x**2, x[:, 1:] * x[:, :-1]], axis=1)


def _of_means(name: str, z: np.ndarray, p_value: float, entries: list[str]) -> Finding:
    worst = int(np.argmax(np.abs(z)))
    where = f"{entries[worst]}, {abs(z[worst]):.1f} errors {'below' if z[worst] > 0 else 'above'}"
    return Finding(name, p_value, where, float("nan"), 2 * special.ndtr(-np.abs(z)))


def _flat(z: Any) -> np.ndarray | None:
    """Return latents `[N, Z]`, the groups one after the other; None of discrete ones."""
    leaves = jax.tree.leaves(z)
    if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        return None
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in leaves], axis=1)


@functools.partial(jax.jit, static_argnames="num_samples")
def _drawn(key: Key, model: Any, params: Params, context: Any, *, num_samples: int) -> Array:
    """Draw data from a model under either contract, `[num_samples, D]`."""
    if isinstance(model, AutoregressiveModel):
        return sample(key, model, params, num_samples, context=context).x
    prior_key, data_key = jax.random.split(key)
    prior = model.prior(params, context=context)
    shape = () if getattr(prior, "batch_shape", ()) else (num_samples,)
    z = prior.sample(seed=prior_key, sample_shape=shape)
    return model.likelihood(params, z, context=context).sample(seed=data_key)
