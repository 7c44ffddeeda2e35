"""Bernoulli log-likelihood, forward and backward, against distrax and optax.

    python -m experiments.benchmarks.likelihood_terms

Less than a minute on two CPU cores. Expected: several times as fast as either peer, because the
whole derivative is one sigmoid.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import distrax
import jax
import jax.numpy as jnp
import optax

from experiments import _harness as harness
from experiments.benchmarks._timing import Row, as_metrics, compare, print_rows
from jaxgen.core import bernoulli_log_prob, check_count


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of the logits and bits."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_likelihood_terms")
    """Folder of the run."""
    num_images: int = 1000
    """Images of 784 bits in a batch."""
    num_repeats: int = 51
    """Pairs of timings."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_images", "num_repeats"):
            check_count(name, getattr(self, name))

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_images=10, num_repeats=2)


def main(config: Config) -> dict[str, harness.Metric]:
    """Time value and gradient of the summed log-likelihood."""
    run = harness.start(config, "benchmarks.likelihood_terms")
    logit_key, bit_key = jax.random.split(jax.random.key(config.seed))
    shape = (config.num_images, 784)
    logits = 3 * jax.random.normal(logit_key, shape)
    x = jax.random.bernoulli(bit_key, 0.5, shape).astype(jnp.float32)
    peers = {
        "distrax": lambda logits, x: distrax.Bernoulli(logits).log_prob(x),
        "optax": lambda logits, x: -optax.sigmoid_binary_cross_entropy(logits, x),
    }
    ours = timed(bernoulli_log_prob)
    rows: list[Row] = []
    for name, log_prob in peers.items():
        peer = timed(log_prob)
        worst = jnp.max(jnp.abs(ours(logits, x)[1] - peer(logits, x)[1]))
        rows.append(
            compare(
                f"bernoulli_{name}",
                functools.partial(ours, logits, x),
                functools.partial(peer, logits, x),
                num_items=x.size,
                peer=name,
                accuracy=f"gradients differ by at most {worst:.1e}",
                num_repeats=config.num_repeats,
            )
        )
    print_rows(rows)
    return run.finish(as_metrics(rows))


def timed(log_prob: Callable) -> Callable:
    """Value and gradient of the sum, compiled."""
    return jax.jit(jax.value_and_grad(lambda logits, x: jnp.sum(log_prob(logits, x))))


if __name__ == "__main__":
    harness.run_experiment(Config, main)
