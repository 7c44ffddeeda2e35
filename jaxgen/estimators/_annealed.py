"""Annealed importance sampling: log-normalizing constants between two bounds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxgen.core._checks import check_count, check_key, check_rank, check_shape
from jaxgen.core._contracts import LatentVariableModel, check_model
from jaxgen.core._extras import import_extra
from jaxgen.core._types import Array, Estimate, Key, Params
from jaxgen.estimators._functionals import LogDensityFn
from jaxgen.estimators._importance import effective_sample_size, log_mean_weight

_NUM_WARM_UP = 30


class AnnealingPath(NamedTuple):
    r"""A geometric path of densities, :math:`\log\pi_\beta = (1-\beta)\log\pi_0 + \beta\log\pi_1`.

    Attributes:
      log_initial_fn: log π_0(z) in nats of one point, a pytree of floating-point arrays; normalized
        and easy to draw from.
      log_final_fn: log π_1(z), unnormalized; its log-normalizing constant is sought.
      temperatures: β_0 = 0 < … < β_T = 1, `[T + 1]`, such as `sigmoid_schedule(T)`.
    """

    log_initial_fn: LogDensityFn
    log_final_fn: LogDensityFn
    temperatures: Array


class Chains(NamedTuple):
    """Chains at the end of their path.

    Attributes:
      log_weights: log of the product of incremental weights (nats), `[K]`.
      positions: where the chains ended, a pytree of `[K, ...]`.
      acceptance: mean acceptance rate of the moves at each temperature, `[T]`.
    """

    log_weights: Array
    positions: Any
    acceptance: Array


def sigmoid_schedule(num_temperatures: int, sharpness: float = 4.0) -> Array:
    r"""Return temperatures denser near both ends, where the densities change fastest: `[T + 1]`.

    .. math:: \beta_t \propto \sigma(\delta (2 t / T - 1)), \quad \beta_0 = 0,\ \beta_T = 1

    (Wu, Burda, Salakhutdinov & Grosse 2017).

    >>> sigmoid_schedule(2).tolist()
    [0.0, 0.5, 1.0]
    """
    check_count("num_temperatures", num_temperatures)
    s = jax.nn.sigmoid(sharpness * jnp.linspace(-1.0, 1.0, num_temperatures + 1))
    return (s - s[0]) / (s[-1] - s[0])


def hmc_step(
    key: Key, log_density_fn: LogDensityFn, z: Any, step_size: Array, num_leapfrog: int
) -> tuple[Any, Array]:
    """Move one point by Hamiltonian Monte Carlo, leaving its density unchanged (Neal 2011).

    The move is BlackJAX's, with a unit mass matrix.

    Args:
      key: a typed key.
      log_density_fn: unnormalized log-density (nats) of one point.
      z: the point, a pytree of floating-point arrays.
      step_size: of the leapfrog integrator, a positive scalar.
      num_leapfrog: its number of steps.

    Returns:
      The new point, and the probability with which the proposal was accepted.

    Raises:
      ModuleNotFoundError: the extra `mcmc` is not installed.
    """
    # Here, so that only annealing pays for the import.
    hmc = import_extra("blackjax.mcmc.hmc", "mcmc")

    size = ravel_pytree(z)[0].size
    state = hmc.init(z, log_density_fn)
    state, info = hmc.build_kernel()(
        key, state, log_density_fn, step_size, jnp.ones(size), num_leapfrog
    )
    return state.position, info.acceptance_rate


def tune_step_sizes(
    key: Key,
    path: AnnealingPath,
    positions: Any,
    *,
    num_leapfrog: int = 10,
    initial_step_size: float = 0.1,
    acceptance: float = 0.65,
) -> Array:
    """Find a step size for each temperature in a run of its own, `[T]`.

    The log of the step size follows what the chains' acceptance rate is off by. Weights of an
    adapting run are not exact, so none are returned: anneal with the step sizes and a new key.

    Args:
      key: a typed key.
      path: the densities.
      positions: draws from π_0, a pytree of `[K, ...]`.
      num_leapfrog: leapfrog steps in each move.
      initial_step_size: where to start.
      acceptance: the rate to aim for.
    """
    check_key(key)

    def move(carry: tuple, indexed: tuple) -> tuple[tuple, Array]:
        positions, step_size = carry
        index, beta = indexed
        positions, rates = _move(
            jax.random.fold_in(key, index), path, beta, positions, step_size, num_leapfrog
        )
        factor = jnp.exp(0.3 * (jnp.mean(rates) - acceptance))
        return (positions, step_size * factor), step_size

    # Moves at the first temperature come before, since the first step size is only a guess.
    warm_up = jnp.full(_NUM_WARM_UP, path.temperatures[1])
    temperatures = jnp.concatenate([warm_up, path.temperatures[1:]])
    indexed = (jnp.arange(temperatures.shape[0]), temperatures)
    start = (positions, jnp.asarray(initial_step_size, temperatures.dtype))
    return jax.lax.scan(move, start, indexed)[1][_NUM_WARM_UP:]


def anneal(
    key: Key,
    path: AnnealingPath,
    positions: Any,
    step_sizes: Array,
    *,
    num_leapfrog: int = 10,
    reverse: bool = False,
) -> Chains:
    r"""Carry draws from π_0 to π_1; the mean weight is an unbiased estimate of Z.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1})
       (\log\pi_1(z_{t-1}) - \log\pi_0(z_{t-1})), \qquad z_t \sim \mathcal T_{\beta_t}(z_{t-1})

    (Neal 2001), with one Hamiltonian Monte Carlo move at each temperature. Its exact reverse, with
    the same moves and the same sign of the log-weights, carries draws from the normalized π_1 back
    to π_0; there the mean inverse weight is unbiased for 1/Z (Grosse, Ghahramani & Adams 2015).

    Args:
      key: a typed key.
      path: the densities.
      positions: independent draws from π_0, exact ones from π_1 in reverse; a pytree of `[K, ...]`.
      step_sizes: `[T]`, from `tune_step_sizes`.
      num_leapfrog: leapfrog steps in each move.
      reverse: whether to go from π_1 to π_0.
    """
    check_key(key)
    num_steps = path.temperatures.shape[0] - 1
    check_shape("step_sizes", step_sizes, (num_steps,))

    def level(carry: tuple, step: tuple) -> tuple[tuple, Array]:
        positions, log_weights = carry
        index, beta, rise, step_size = step
        before = positions
        positions, rates = _move(
            jax.random.fold_in(key, index), path, beta, positions, step_size, num_leapfrog
        )
        ratio = _log_ratio(path, positions if reverse else before)
        return (positions, log_weights + rise * ratio), jnp.mean(rates)

    first = jax.tree.leaves(positions)[0]
    rises = jnp.diff(path.temperatures)
    steps = (jnp.arange(num_steps), path.temperatures[1:], rises, step_sizes)
    start = (positions, jnp.zeros(first.shape[0], jnp.promote_types(first.dtype, jnp.float32)))
    (positions, log_weights), acceptance = jax.lax.scan(level, start, steps, reverse=reverse)
    return Chains(log_weights, positions, acceptance)


class Bounds(NamedTuple):
    """Stochastic bounds on log p(x), with what is needed to judge them.

    Attributes:
      lower: its expectation lies below log p(x); nats, `[B]`.
      upper: its expectation lies above log p(x); nats, `[B]`.
      effective_sample_size: of the forward chains, `[B]`, between 1 and K.
      acceptance: mean acceptance rate over all moves, forward and back, `[B]`.
    """

    lower: Estimate
    upper: Estimate
    effective_sample_size: Array
    acceptance: Array


def log_likelihood_bounds(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    z: Array,
    temperatures: Array,
    *,
    context: Any = None,
    num_chains: int = 16,
    num_leapfrog: int = 10,
) -> Bounds:
    r"""Bound log p(x) of a latent-variable model from both sides (bidirectional Monte Carlo).

    .. math:: \mathbb E\left[\log \tfrac1K \sum_k w_k\right] \le \log p(x) \le
       \mathbb E\left[-\log \tfrac1K \sum_k w_k'^{-1}\right]

    with w from annealing the prior to the posterior and w′ from annealing back (Grosse, Ghahramani
    & Adams 2015; Wu, Burda, Salakhutdinov & Grosse 2017). The gap shrinks with the number of
    temperatures.

    The upper bound needs an exact posterior draw, so data are simulated: z from the prior, x from
    the likelihood. All reverse chains of a point start at its one z; they share that luck, which
    the error of one point does not count. Averaged over points, use the spread between points.

    Args:
      key: a typed key.
      model: prior and likelihood; the posterior is not used. Distributions have `log_prob` and
        `sample(seed=key)`.
      params: the model's parameters.
      x: simulated data, `[B, ...]`.
      z: the latents that generated it, `[B, Z]` or a pytree of such.
      temperatures: β, `[T + 1]`; cost grows with T.
      context: what the model is conditioned on, a pytree of `[B, ...]`; None for nothing.
      num_chains: K for each data point in each direction.
      num_leapfrog: leapfrog steps in each move.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_chains", num_chains, 2)
    check_rank("temperatures", temperatures, 1)

    def bounds_of_point(key: Key, x: Array, z: Any, context: Any) -> Bounds:
        context = _batch_of_one(context)
        prior = model.prior(params, context=context)
        is_batched = context is not None  # then the prior has a batch shape, [1]

        def log_prior(z: Any) -> Array:
            return prior.log_prob(_batch_of_one(z))[0] if is_batched else prior.log_prob(z)

        def log_joint(z: Any) -> Array:
            likelihood = model.likelihood(params, _batch_of_one(z), context=context)
            return log_prior(z) + likelihood.log_prob(x[None])[0]

        path = AnnealingPath(log_prior, log_joint, temperatures)
        keys = jax.random.split(key, 5)

        def draw(key: Key) -> Any:
            z = jax.vmap(lambda k: prior.sample(seed=k))(jax.random.split(key, num_chains))
            return jax.tree.map(lambda leaf: leaf[:, 0], z) if is_batched else z

        steps = tune_step_sizes(keys[0], path, draw(keys[1]), num_leapfrog=num_leapfrog)
        forward = anneal(keys[2], path, draw(keys[3]), steps, num_leapfrog=num_leapfrog)
        starts = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_chains, *leaf.shape)), z)
        back = anneal(keys[4], path, starts, steps, num_leapfrog=num_leapfrog, reverse=True)
        inverse = log_mean_weight(-back.log_weights)
        return Bounds(
            log_mean_weight(forward.log_weights),
            inverse._replace(value=-inverse.value),
            effective_sample_size(forward.log_weights),
            (jnp.mean(forward.acceptance) + jnp.mean(back.acceptance)) / 2,
        )

    return jax.vmap(bounds_of_point)(jax.random.split(key, x.shape[0]), x, z, context)


def _batch_of_one(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _log_ratio(path: AnnealingPath, positions: Any) -> Array:
    return jax.vmap(lambda z: path.log_final_fn(z) - path.log_initial_fn(z))(positions)


def _move(
    key: Key, path: AnnealingPath, beta: Array, positions: Any, step_size: Array, num_leapfrog: int
) -> tuple[Any, Array]:
    def log_density(z: Any) -> Array:
        # At the path's end π_0 has no say, nor where it is zero: 0 × ∞ would be NaN.
        initial = jnp.where(beta == 1, 0.0, path.log_initial_fn(z))
        return (1 - beta) * initial + beta * path.log_final_fn(z)

    num_chains = jax.tree.leaves(positions)[0].shape[0]
    return jax.vmap(lambda k, z: hmc_step(k, log_density, z, step_size, num_leapfrog))(
        jax.random.split(key, num_chains), positions
    )
