"""Samplers against JAX, TensorFlow Probability and SciPy: speed and what was checked of the draws.

    python -m experiments.benchmarks.samplers

About 3 minutes. One process on one core, ours and the peer in turn, medians over pairs. Expected:
every row above 1 but the set-up of a single table (PINV sets up faster), a truncated normal against
JAX, and counts and angles of large parameters against NumPy; and the checks of the draws within
chance.
"""

import dataclasses
import math
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import jaxgen as jg
from experiments import _harness as harness
from experiments.benchmarks._samplers_continuous import continuous_rows
from experiments.benchmarks._samplers_named import named_rows
from experiments.benchmarks._samplers_quantiles import quantile_rows
from experiments.benchmarks._timing import Row, as_metrics, compare, print_rows, use_one_core
from jaxgen.core import Array, Key, check_count


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of all keys."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_samplers")
    """Folder of the run."""
    num_draws: int = 2**20
    """Draws of the rows of the inverse CDF."""
    num_samples: int = 2**18
    """Draws of the rows of named distributions and of rejection."""
    num_rows: int = 256
    """Rows of 4096 logits in the categorical row."""
    num_points: int = 2**16
    """Points of 16 dimensions in the Sobol rows."""
    num_densities: int = 1000
    """Tables set up at once."""
    num_repeats: int = 15
    """Pairs of timings."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_draws", "num_samples", "num_rows", "num_points", "num_densities"):
            check_count(name, getattr(self, name))
        check_count("num_repeats", self.num_repeats)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(
            num_draws=256,
            num_densities=4,
            num_samples=256,
            num_rows=2,
            num_points=16,
            num_repeats=1,
        )


def main(config: Config) -> dict[str, harness.Metric]:
    """Time every row and print the table."""
    run = harness.start(config, "benchmarks.samplers")
    key = jax.random.key(config.seed)
    rows: list[Row] = []
    with jax.debug_key_reuse(False):  # timings repeat one piece of work, key included
        for measure in (continuous, named, quantile, rejection_rows, categorical_row, sobol_rows):
            rows += measure(config, key)
            run.log(stage="rows", step=len(rows))
    print_rows(rows)
    return run.finish(as_metrics(rows))


def continuous(config: Config, key: Key) -> list[Row]:
    """Any one-dimensional density, by its tabulated inverse CDF."""
    return continuous_rows(config.seed, config.num_draws, config.num_densities, config.num_repeats)


def named(config: Config, key: Key) -> list[Row]:
    """Distributions with a name."""
    return named_rows(key, config.num_samples, config.num_repeats)


def quantile(config: Config, key: Key) -> list[Row]:
    """Quantiles with a parameter per element."""
    return quantile_rows(key, config.num_samples, config.num_repeats)


def rejection_rows(config: Config, key: Key) -> list[Row]:
    """A normal under a Laplace proposal, accepted with probability 0.76."""
    log_bound = 0.5 + math.log(2.0)
    proposal = jg.samplers.Proposal(None, laplace_quantile, laplace_log_prob)
    ours = jax.jit(
        lambda k: (
            jg.samplers.rejection(
                k, normal_log_prob, None, proposal, log_bound, (config.num_samples,)
            ).samples
        )
    )
    checked = cdf_distance(ours(key), scipy.stats.norm.cdf)
    peers = {
        "loop": ("vmap(while_loop)", mapped_loop(config.num_samples, log_bound)),
        "tfp": ("TFP batched_las_vegas", tfp_rejection(config.num_samples, log_bound)),
    }
    return [
        compare(
            f"rejection_0.76_{name}",
            lambda: ours(key),
            settled(peer, key),
            num_items=config.num_samples,
            peer=title,
            accuracy=checked,
            num_repeats=config.num_repeats,
        )
        for name, (title, peer) in peers.items()
    ]


def categorical_row(config: Config, key: Key) -> list[Row]:
    """One draw from each of 256 rows of 4096 logits; the tail is checked 18 nats down."""
    logits = 3 * jax.random.normal(key, (config.num_rows, 4096))
    ours = jax.jit(lambda key, logits: jg.samplers.blocked_categorical(logits).sample(key))
    peer = jax.jit(jax.random.categorical)
    num_draws = 200 * config.num_samples // 64
    in_tail = tail_count(key, num_draws)
    expected = num_draws * 4095 / (4095 + math.exp(18))
    return [
        compare(
            "categorical_256x4096",
            lambda: ours(key, logits),
            lambda: peer(key, logits),
            num_items=logits.size,
            peer="jax.random.categorical",
            accuracy=f"tail 18 nats down: {in_tail} draws, {expected:.1f} ± "
            f"{math.sqrt(expected):.1f} expected",
            num_repeats=config.num_repeats,
        )
    ]


def sobol_rows(config: Config, key: Key) -> list[Row]:
    """Scrambled Sobol points of 16 dimensions."""
    from tensorflow_probability.substrates import jax as tfp

    n = config.num_points
    ours = jax.jit(lambda k: jg.samplers.scrambled_sobol(k, n, 16))
    engine = scipy.stats.qmc.Sobol(16, scramble=True, seed=config.seed)

    def scipy_sobol() -> np.ndarray:
        engine.reset()
        return engine.random(n)

    plain = scipy.stats.qmc.Sobol(16, scramble=False, bits=32).random(n)
    equal = np.array_equal(np.asarray(jg.samplers.sobol(n, 16), np.float64), plain)
    halton = jax.jit(lambda k: tfp.mcmc.sample_halton_sequence(16, n, dtype=jnp.float32, seed=k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TFP asks JAX for the shape of None and for float64
        halton(key)
    peers: dict[str, tuple[str, Callable[[], Any]]] = {
        "scipy": ("scipy.stats.qmc.Sobol", scipy_sobol),
        "halton": ("TFP sample_halton_sequence", settled(halton, key)),
    }
    return [
        compare(
            f"sobol_16_{name}",
            lambda: ours(key),
            peer,
            num_items=16 * n,
            peer=title,
            accuracy=f"unscrambled equals SciPy bit for bit: {equal}",
            num_repeats=config.num_repeats,
        )
        for name, (title, peer) in peers.items()
    ]


def settled(draw: Callable[[Key], Array], key: Key) -> Callable[[], None]:
    """Draw, and wait until its memory is freed too.

    XLA frees a computation's memory after the result is ready. For Halton points that takes 15 ms,
    which the next to be timed would pay; a small computation behind it (0.05 ms) waits for that.
    """

    def run() -> None:
        draw(key).block_until_ready()
        _behind(key).block_until_ready()

    return run


_behind = jax.jit(lambda key: jax.random.bits(key, (2**14,)))


def laplace_quantile(_: None, u: Array) -> Array:
    """The inverse CDF of a Laplace distribution."""
    side = u[0] - 0.5
    return -jnp.sign(side) * jnp.log1p(-2 * jnp.abs(side))


def laplace_log_prob(_: None, x: Array) -> Array:
    """Its log-density."""
    return -jnp.abs(x) - math.log(2.0)


def normal_log_prob(_: None, x: Array) -> Array:
    """A normal log-density up to its constant."""
    return -0.5 * x**2


def mapped_loop(num_samples: int, log_bound: float) -> Callable[[Key], Array]:
    """The textbook form: a loop for each sample, mapped over samples."""

    def attempt(state: tuple) -> tuple:
        key, proposal_key, accept_key = jax.random.split(state[0], 3)
        x = laplace_quantile(None, jax.random.uniform(proposal_key, (1,)))
        log_u = jnp.log(jax.random.uniform(accept_key))
        excess = normal_log_prob(None, x) - laplace_log_prob(None, x) - log_bound
        return key, x, log_u <= excess

    def one(key: Key) -> Array:
        start = (key, jnp.float32(0), jnp.bool_(False))
        return jax.lax.while_loop(lambda state: ~state[2], attempt, start)[1]

    return jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, num_samples)))


def tfp_rejection(num_samples: int, log_bound: float) -> Callable[[Key], Array]:
    """TFP's batched sampler, which proposes for all until all have accepted."""
    from tensorflow_probability.substrates.jax.internal import batched_rejection_sampler

    def propose(seed: Key) -> tuple[Array, Array]:
        proposal_key, accept_key = jax.random.split(seed)
        u = jax.random.uniform(proposal_key, (num_samples, 1))
        x = jax.vmap(lambda v: laplace_quantile(None, v))(u)
        log_u = jnp.log(jax.random.uniform(accept_key, (num_samples,)))
        return x, log_u <= normal_log_prob(None, x) - laplace_log_prob(None, x) - log_bound

    return jax.jit(
        lambda key: batched_rejection_sampler.batched_las_vegas_algorithm(propose, seed=key)[0]
    )


def tail_count(key: Key, num_draws: int) -> int:
    """Draws, of many, that fall on 4095 symbols 18 nats below the leader."""
    logits = jnp.full(4096, -18.0).at[7].set(0.0)
    keys = jax.random.split(key, max(1, num_draws // 4096))
    per_chunk = num_draws // len(keys)

    @jax.jit
    def count(keys: Key) -> Array:
        table = jg.samplers.blocked_categorical(logits)
        return jnp.sum(jax.lax.map(lambda k: jnp.sum(table.sample(k, (per_chunk,)) != 7), keys))

    return int(count(keys))


def cdf_distance(samples: Array, cdf: Callable[[np.ndarray], np.ndarray]) -> str:
    """The largest distance of the empirical CDF, beside what chance explains once in 10⁹."""
    distance = scipy.stats.kstest(np.asarray(samples, np.float64), cdf).statistic
    band = math.sqrt(math.log(2e9) / (2 * samples.size))
    return f"CDF distance {distance:.1e}, band {band:.1e}"


if __name__ == "__main__":
    use_one_core()
    harness.run_experiment(Config, main)
