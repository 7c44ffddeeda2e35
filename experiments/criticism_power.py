"""Plant faults in models that are right, and see criticism find each; count its false alarms.

    python -m experiments.criticism_power

About 10 minutes on two CPU cores. The truth is a MADE of digits pooled to 4×4 pixels of 5 levels,
given their class, and a linear-Gaussian model: data are drawn from them, so that they are right by
construction, and each fault is planted in a copy. Expected: every fault found, the right models
called wrong no more often than the level allows. The figure shows the p-values of right models
beside the diagonal they may not cross.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, AutoregressiveModel, Key, Params, check_count, check_in_range

NUM_DIMS, NUM_SYMBOLS, NUM_CLASSES = 16, 5, 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of the training and of all draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/criticism_power")
    """Folder of the run."""
    num_steps: int = 2000
    """Training steps of the model that is taken for the truth."""
    num_points: int = 2000
    """Data points in which a fault must be found."""
    num_simulations: int = 1000
    """Data sets of each right model by which false alarms are counted."""
    num_points_simulated: int = 300
    """Points in each of them."""
    level: float = 0.01
    """The level at which a model is called wrong."""
    fault: str | None = None
    """One fault, by its name in the table; None plants all."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        for name in ("num_steps", "num_points", "num_simulations", "num_points_simulated"):
            check_count(name, getattr(self, name))
        check_in_range("level", self.level, 0.0, 1.0, open_lower=True, open_upper=True)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part."""
        return cls(
            num_steps=20,
            num_points=40,
            num_simulations=1,
            num_points_simulated=40,
            fault="temperature 0.95",
        )


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "criticism_power")
    keys = jax.random.split(jax.random.key(config.seed), 4)
    truth = fit_truth(keys[0], config)
    faults = found_faults(keys[1], truth, config)
    metrics = {f"fault/{name}": Metric(float(found)) for name, found in faults.items()}
    metrics["faults_found"] = Metric(sum(faults.values()), None, len(faults))
    p_values = {
        "chains": simulate(keys[2], config, lambda key: chain_criticism(key, truth, config)),
        "latents": simulate(keys[3], config, lambda key: latent_criticism(key, config)),
    }
    for name, p in p_values.items():
        rate = float(np.mean(p < config.level))
        error = float(np.sqrt(config.level * (1 - config.level) / len(p)))
        metrics[f"false_alarms/{name}"] = Metric(rate, error, len(p))
    run.save_figure(draw(p_values, config.level), "false_alarms.png")
    return run.finish(metrics)


class Truth(NamedTuple):
    """A fitted model, from here on the truth."""

    model: jg.MADE
    params: Params


def fit_truth(key: Key, config: Config) -> Truth:
    """Fit digits of 4×4 pixels, given their class."""
    data = jg.data.digits().train
    x = pooled(data.x)
    model = jg.MADE(NUM_DIMS, NUM_SYMBOLS, (64,), conditioning=jg.models.Labels(NUM_CLASSES))

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        return -jnp.mean(model.log_prob(params, batch["x"], context=batch["label"]))

    init_key, fit_key = jax.random.split(key)
    params = jg.models.set_output_bias(model, model.init(init_key, x[:1]), x)
    with harness.progress_bar("truth", config.num_steps) as update:
        fitted = harness.fit(
            fit_key,
            params,
            loss,
            {"x": x, "label": data.labels},
            optax.adamw(1e-3, weight_decay=0.1, mask=jg.training.kernel_mask),
            num_steps=config.num_steps,
            batch_size=100,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.2f} nats"),
        )
    return Truth(model, fitted.params)


def pooled(x: np.ndarray) -> np.ndarray:
    """Average 8×8 images of 17 levels over 2×2 pixels, to 5 levels."""
    blocks = x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    return np.rint(blocks / 4).astype(np.int32).reshape(-1, NUM_DIMS)


@dataclasses.dataclass(frozen=True)
class Faulty(AutoregressiveModel):
    """The true model with a fault in its conditionals or in its steps.

    Attributes:
      model: the truth.
      fault: `fault(own_fn, x, context) -> logits`; the model's own are `own_fn(x, context)`.
      step_fault: `step_fault(logits [B, V], index) -> logits`, in sampling alone.
    """

    model: jg.MADE
    fault: Callable | None = None
    step_fault: Callable | None = None
    num_dims: int = NUM_DIMS
    num_symbols: int = NUM_SYMBOLS

    def logits(self, params: Params, x: Any, *, context: Any = None) -> Array:
        """Return the logits with the fault."""

        def own(x: Array, context: Any) -> Array:
            return self.model.logits(params, x, context=context)

        x = jnp.asarray(x)
        return own(x, context) if self.fault is None else self.fault(own, x, context)

    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Return the logits of a step with its fault."""
        logits, cache = super().step(params, cache, index, previous)
        return logits if self.step_fault is None else self.step_fault(logits, index), cache


@dataclasses.dataclass(frozen=True)
class Memorizer(AutoregressiveModel):
    """Training data with a little noise: p(x) = (1/T) Σ_t Π_i (1 − ε) [x_i = t_i] + ε / V."""

    num_dims: int = NUM_DIMS
    num_symbols: int = NUM_SYMBOLS
    noise: float = 0.01

    def logits(self, params: Params, x: Any, *, context: Any = None) -> Array:
        """Return the logits of a mixture over training images `params` `[T, D]`."""
        agrees = jnp.asarray(x)[..., None, :] == params
        log_terms = jnp.log(jnp.where(agrees, 1 - self.noise, self.noise / self.num_symbols))
        before = jnp.cumsum(log_terms, axis=-1) - log_terms
        weights = jax.nn.softmax(before, axis=-2)
        counts = jnp.einsum("...td,tdv->...dv", weights, jax.nn.one_hot(params, self.num_symbols))
        return jnp.log((1 - self.noise) * counts + self.noise / self.num_symbols)


def chain_faults() -> dict[str, Callable]:
    """Every planted fault of a chain; a function makes it from the model."""
    coordinate = jnp.arange(NUM_DIMS)[:, None]
    level = jnp.arange(NUM_SYMBOLS)

    def logits_fault(change: Callable) -> Callable:
        return lambda own, x, context: change(own(x, context))

    def one_pixel_off(logits: Array) -> Array:
        p = 0.95 * jax.nn.softmax(logits) + 0.05 * jax.nn.one_hot(0, NUM_SYMBOLS)
        return jnp.where(coordinate == 5, jnp.log(p), logits)

    def without(own: Callable, x: Array, context: Any, is_hidden: Callable) -> Array:
        rows = [own(jnp.where(is_hidden(i), 0, x), context)[..., i, :] for i in range(NUM_DIMS)]
        return jnp.stack(rows, axis=-2)

    def blind_to_previous(own: Callable, x: Array, context: Any) -> Array:
        return without(own, x, context, lambda i: jnp.arange(NUM_DIMS) == i - 1)

    def blind_to_upper_half(own: Callable, x: Array, context: Any) -> Array:
        return without(own, x, context, lambda i: (jnp.arange(NUM_DIMS) < 8) & (i >= 8))

    def sees_itself(own: Callable, x: Array, context: Any) -> Array:
        return own(x, context) + 0.3 * jax.nn.one_hot(x, NUM_SYMBOLS)

    def relabeled(change: Callable) -> Callable:
        return lambda own, x, context: own(x, change(context))

    def swapped(context: Array) -> Array:
        return jnp.where(context == 3, 5, jnp.where(context == 5, 3, context))

    def first_wrong(logits: Array, index: Array) -> Array:
        return jnp.where(index == 0, 0.0, logits)

    return {
        "pixel's conditional off by 5 %": logits_fault(one_pixel_off),
        "mask off by one: previous pixel unseen": blind_to_previous,
        "mask off by one: own pixel seen": sees_itself,
        "lower half blind to the upper": blind_to_upper_half,
        "temperature 0.95": logits_fault(lambda logits: logits / 0.95),
        "temperature 1.05": logits_fault(lambda logits: logits / 1.05),
        "brightest level hardly ever": logits_fault(lambda logits: logits - 2.0 * (level == 4)),
        "darker by a little": logits_fault(lambda logits: logits + 0.05 * level),
        "order of two pixels swapped": logits_fault(
            lambda logits: logits[..., jnp.array([0, 1, 2, 3, 4, 6, 5, *range(7, NUM_DIMS)]), :]
        ),
        "a pair of classes swapped": relabeled(swapped),
        "labels shifted by one": relabeled(lambda context: (context + 1) % NUM_CLASSES),
        "labels ignored": relabeled(lambda context: jnp.full_like(context, NUM_CLASSES)),
        "a class dropped": relabeled(lambda context: jnp.where(context == 7, 1, context)),
        "sampler's first pixel wrong": first_wrong,
        "sampler at temperature 0.9": lambda logits, index: logits / 0.9,
    }


STEP_FAULTS = ("sampler's first pixel wrong", "sampler at temperature 0.9")


def found_faults(key: Key, truth: Truth, config: Config) -> dict[str, bool]:
    """Return which planted faults are found, and print by what."""
    data_key, train_key, latent_key, key = jax.random.split(key, 4)
    x, labels = true_data(data_key, truth, config.num_points)
    found = {}

    def record(name: str, result: jg.criticism.Criticism) -> None:
        found[name] = not result.is_calibrated
        print(f"{name}: {result.faults[0].name if result.faults else 'not found'}")

    def ask(name: str, model: Any, params: Params, x: Any, **kwargs: Any) -> None:
        if config.fault not in (None, name):
            return
        ask_key = jax.random.fold_in(key, len(found))
        record(
            name,
            jg.criticise(ask_key, model, params, x, level=config.level, num_samples=500, **kwargs),
        )

    for name, fault in chain_faults().items():
        is_step = name in STEP_FAULTS
        model = Faulty(truth.model, None if is_step else fault, fault if is_step else None)
        ask(name, model, truth.params, x, context=labels)
    for name, params in broken_params(truth).items():
        ask(name, truth.model, params, x, context=labels)
    train, _ = true_data(train_key, truth, config.num_points)
    ask("training data memorized", Memorizer(), jnp.asarray(train[:500]), x, train=train[:500])
    ask("pixels independent", *independent(train), x)
    for name, (params, real) in latent_faults(latent_key, config).items():
        ask(name, jg.models.LinearGaussian(), params, real)
    return found


def broken_params(truth: Truth) -> dict[str, Params]:
    """Return faults in the parameters."""
    inner = truth.params["params"]
    last = max(name for name in inner if name.startswith("bias"))
    return {"biases decayed": {"params": {**inner, last: 0.7 * inner[last]}}}


def independent(x: np.ndarray) -> tuple[Any, Params]:
    """Return the model of independent pixels with the right marginals."""
    model = jg.Independent(NUM_DIMS, NUM_SYMBOLS)
    return model, jg.models.fit_independent(x, NUM_SYMBOLS)


def latent_faults(key: Key, config: Config) -> dict[str, tuple[Params, Any]]:
    """Return planted faults of a latent-variable model, and data of the truth."""
    params = linear_gaussian()
    x = gaussian_data(key, params, config.num_points)
    factor = params.posterior_factor
    return {
        "posterior too narrow": (params._replace(posterior_factor=0.85 * factor), x),
        "posterior too wide": (params._replace(posterior_factor=1.2 * factor), x),
        "posterior's mean shrunk": (
            params._replace(posterior_weights=0.8 * params.posterior_weights),
            x,
        ),
        "noise of the data too small": (params._replace(log_noise=params.log_noise - 0.15), x),
        "latents of the data wider than the prior": (params, 1.15 * x),
    }


def true_data(key: Key, truth: Truth, num_points: int) -> tuple[np.ndarray, Array]:
    """Draw data of the truth, and their labels."""
    label_key, data_key = jax.random.split(key)
    labels = jax.random.randint(label_key, (num_points,), 0, NUM_CLASSES)
    return np.asarray(draw_from(data_key, truth.model, truth.params, labels)), labels


@jax.jit
def draw_from(key: Key, model: jg.MADE, params: Params, labels: Array) -> Array:
    """Draw one data point for each label."""
    return jg.sample(key, model, params, len(labels), context=labels).x


def linear_gaussian() -> jg.models.LinearGaussianParams:
    """A model of 2 latents and 6 dimensions, with its exact posterior."""
    loadings = jnp.array([[1, 0], [1, 0.5], [0, 1], [-1, 1], [0.5, 0], [0, -0.5]])
    zeros = jnp.zeros((2, 6)), jnp.eye(2)
    return jg.models.LinearGaussian().exact_posterior(
        jg.models.LinearGaussianParams(loadings, jnp.log(0.7), *zeros)
    )


@jax.jit
def noise_of(key: Key, like: Array) -> Array:
    """Draw standard normals of the shape of `like`."""
    return jax.random.normal(key, like.shape)


def gaussian_data(key: Key, params: jg.models.LinearGaussianParams, num_points: int) -> np.ndarray:
    """Draw data of the linear-Gaussian model."""
    noise = np.asarray(noise_of(key, jnp.zeros((num_points, 8))))
    z, e = noise[:, :2], noise[:, 2:]
    return (z @ np.asarray(params.loadings).T + np.exp(params.log_noise) * e).astype(np.float32)


def chain_criticism(key: Key, truth: Truth, config: Config) -> jg.criticism.Criticism:
    """Criticize the truth by data of its own."""
    data_key, key = jax.random.split(key)
    num_points = config.num_points_simulated
    x, labels = true_data(data_key, truth, num_points)
    return jg.criticise(
        key,
        truth.model,
        truth.params,
        x,
        context=labels,
        image_shape=(4, 4),
        num_samples=num_points,
        train=x[::-1],
    )


def latent_criticism(key: Key, config: Config) -> jg.criticism.Criticism:
    """Criticize the linear-Gaussian model by data of its own."""
    data_key, key = jax.random.split(key)
    num_points, params = config.num_points_simulated, linear_gaussian()
    x = gaussian_data(data_key, params, num_points)
    return jg.criticise(key, jg.models.LinearGaussian(), params, x, num_samples=num_points)


def simulate(
    key: Key, config: Config, criticism_fn: Callable[[Key], jg.criticism.Criticism]
) -> np.ndarray:
    """Return the p-value of each simulation: of its worst finding, times their number."""
    p_values = []
    with harness.progress_bar("right models", config.num_simulations) as update:
        for i in range(config.num_simulations):
            findings = criticism_fn(jax.random.fold_in(key, i)).findings
            p_values.append(min(len(findings) * findings[0].p_value, 1.0))
            update(i + 1, f"lowest {min(p_values):.1e}")
    return np.array(p_values)


def draw(p_values: dict[str, np.ndarray], level: float) -> Any:
    """Draw how often right models have a p-value below each level."""
    figure, axis = plots.subplots(figsize=(4.6, 3.6))
    for (name, p), color in zip(p_values.items(), plots.COLORS, strict=False):
        axis.step(np.sort(p), np.arange(1, len(p) + 1) / len(p), color=color, label=name)
    ends = np.array([1e-3, 1.0])
    axis.plot(ends, ends, color=plots.COLORS[6], linewidth=0.8, linestyle=":", label="allowed")
    axis.axvline(level, color=plots.COLORS[6], linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="level")
    axis.set(ylabel="right models called wrong", title="False alarms")
    axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
