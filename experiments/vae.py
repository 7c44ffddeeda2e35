"""Fit any VAE of the library and look at its latents: how many are used, and what each one does.

    python -m experiments.vae
    python -m experiments.vae --prior vamp --posterior autoregressive
    python -m experiments.vae --data mnist --network two_layers --num-steps 50000

About 2 minutes on two CPU cores with the defaults, scikit-learn's 8×8 digits of 17 gray levels;
MNIST, with bits drawn anew for every batch, takes half an hour or more. Five figures show samples
and reconstructions, walks between two test images, what single units do, which units are in use,
and the inequality at work: the bound of each test image against its estimated log-likelihood, with
the gap split into what no diagonal normal could reach and what the encoder loses on it (Cremer et
al. 2018), beside samples. All nats are negative log-likelihoods of a test image (lower is better).
Expected, with the defaults: of the nats that the ELBO loses, an encoder without error would save
more than half, and only another family of posteriors the rest; most units in use, and a
mutual information that is cut at the logarithm of the 360 images looked at.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments import _images as images
from experiments import _plots as plots
from experiments._harness import Metric, mean_metric
from experiments._images import Images
from jaxgen.core import Array, Key, Params, check_count, check_in_range, check_multiple

PRIORS = {
    "standard_normal": jg.models.StandardNormal(),
    "mixture": jg.models.MixtureOfNormals(),
    "vamp": jg.models.VampPrior(100),
    "flow": jg.models.FlowPrior(),
}
POSTERIORS = {
    "diagonal": jg.models.DiagonalNormal(),
    "autoregressive": jg.models.FlowPosterior(jg.models.InverseAutoregressive()),
    "spline": jg.models.FlowPosterior(jg.models.SplineCoupling()),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The model and its training."""

    data: Literal["digits", "mnist"] = "digits"
    """The images."""
    network: Literal["perceptron", "convolutional", "two_layers"] = "perceptron"
    """Networks of one stochastic layer, or perceptrons of two."""
    prior: Literal["standard_normal", "mixture", "vamp", "flow"] = "standard_normal"
    """The family of p(z); two layers have their own."""
    posterior: Literal["diagonal", "autoregressive", "spline"] = "diagonal"
    """The family of q(z | x); two layers have their own."""
    conditional: Literal["ordinal", "logistic"] = "ordinal"
    """The family of p(x | z): a logit for each level, or mixtures of logistics."""
    num_latents: int = 24
    """Size of z; of two layers, the lower one's, the upper having half."""
    num_hidden: int = 400
    """Units of each hidden layer."""
    num_samples: int = 1
    """Posterior samples of each image in a training step."""
    num_steps: int = 3000
    """Training steps at most."""
    batch_size: int = 100
    """Images in a step."""
    learning_rate: float = 1e-3
    """Adam's highest learning rate; it falls to nothing along a cosine."""
    weight_decay: float = 1.0
    """Decoupled weight decay; MNIST needs none."""
    patience: int = 8
    """Validations, 100 steps apart, without improvement after which training stops."""
    num_importance_samples: int = 1000
    """Posterior samples for each test image, a multiple of 50."""
    num_diagnosed: int = 360
    """Test images behind the diagnostics; every two of them are compared."""
    num_split: int = 32
    """Test images whose gap is split in two, at most 360."""
    seed: int = 0
    """Seed of initial weights, batches, bits and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/vae")
    """Folder of the run; an unfinished run with the same settings is continued there."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_latents", "num_hidden", "num_samples", "num_steps", "patience"):
            check_count(name, getattr(self, name))
        check_multiple("num_importance_samples", self.num_importance_samples, 50)
        check_count("num_diagnosed", self.num_diagnosed, minimum=2)
        check_in_range("num_split", self.num_split, 2, self.num_diagnosed)
        check_count("batch_size", self.batch_size)
        check_in_range("learning_rate", self.learning_rate, 0.0, 1.0, open_lower=True)
        is_default = (self.prior, self.posterior) == ("standard_normal", "diagonal")
        if self.network == "two_layers" and not is_default:
            raise ValueError("network two_layers has its own prior and posterior; leave both out")

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part."""
        return cls(
            num_latents=3,
            num_hidden=10,
            num_steps=100,
            batch_size=20,
            num_importance_samples=50,
            num_diagnosed=40,
            num_split=2,
        )


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "vae")
    data = images.load(config.data)
    model = build(config, data)
    fitted = train(run, model, data)
    log_prob = importance_log_prob(run, model, fitted.params, data.test)
    keys = jax.random.split(jax.random.key(config.seed + 1), 2)
    some = data.test[: config.num_diagnosed].astype(np.int32)
    found = jax.jit(jg.objectives.diagnose)(keys[0], model, fitted.params, some)
    split = jax.jit(jg.objectives.inference_gaps)
    gaps = split(keys[1], model, fitted.params, some[: config.num_split])
    found, gaps = jax.device_get((found, gaps))
    draw_figures(run, model, fitted, data, found, gaps)
    return run.finish(measured(data, log_prob, found, gaps))


def build(config: Config, data: Images) -> jg.VAE | jg.HierarchicalVAE:
    """Build the model that the flags name."""
    num_dims, num_symbols = data.test.shape[1], data.num_symbols
    hidden = (config.num_hidden, config.num_hidden)
    is_logistic = config.conditional == "logistic"
    conditional = jg.models.LogisticMixture(num_symbols, 3) if is_logistic else None
    if config.network == "two_layers":
        sizes = (config.num_latents, max(config.num_latents // 2, 1))
        return jg.HierarchicalVAE(num_dims, num_symbols, sizes, (hidden, hidden), conditional)
    layers = None
    if config.network == "convolutional":
        layers = jg.models.Convolutions(data.shape, (32, 64))
    return jg.VAE(
        num_dims,
        num_symbols,
        config.num_latents,
        hidden if layers is None else hidden[:1],
        layers,
        conditional,
        PRIORS[config.prior],
        POSTERIORS[config.posterior],
    )


def train(run: harness.Run, model: Any, data: Images) -> jg.training.FitResult:
    """Maximize the ELBO, with checkpoints, a live bar and logged rows."""
    config = run.config
    init_key, fit_key = jax.random.split(jax.random.key(config.seed))
    first = images.symbols(jax.random.key(0), jax.tree.map(lambda leaf: leaf[:5000], data.train))
    optimizer = optax.chain(
        optax.clip_by_global_norm(100.0),
        optax.adamw(
            optax.cosine_decay_schedule(config.learning_rate, config.num_steps),
            weight_decay=config.weight_decay,
            mask=jg.training.kernel_mask,
        ),
    )

    def loss(key: Key, params: Params, batch: dict, step: Array) -> tuple[Array, dict[str, Array]]:
        bits_key, sample_key = jax.random.split(key)
        x = images.symbols(bits_key, batch)
        found = elbo(sample_key, model, params, x, config.num_samples)
        parts = {"reconstruction": -jnp.mean(found.log_likelihood), "kl": jnp.mean(found.kl)}
        return -jnp.mean(found.value), parts

    @jax.jit
    def validate(params: Params) -> Array:
        x = jnp.asarray(data.valid[:1000], jnp.int32)
        key = jax.random.key(1)  # always the same draws
        return -jnp.mean(elbo(key, model, params, x, num_samples=10).value)

    format_fn = harness.nats_and_bits(model.num_dims)
    with harness.training_bar(
        run, "train", config.num_steps, description="vae", format_fn=format_fn
    ) as report:
        return harness.fit(
            fit_key,
            jg.models.set_output_bias(
                model, jax.jit(model.init)(init_key, first[:1]), np.asarray(first)
            ),
            loss,
            data.train,
            optimizer,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            validate_fn=validate,
            patience=config.patience,
            average_decay=0.99,
            checkpointer=jg.training.Checkpointer(run.path / "checkpoints"),
            report_fn=report,
        )


def elbo(key: Key, model: Any, params: Params, x: Array, num_samples: int) -> jg.objectives.ELBO:
    """Draw the ELBO of each image, with both of its parts from the same samples of z."""
    return jg.elbo(key, model, params, x, num_samples=num_samples, kl="monte_carlo")


def importance_log_prob(
    run: harness.Run, model: jg.LatentVariableModel, params: Params, x: np.ndarray
) -> np.ndarray:
    """Estimate log p(x) of each test image from many posterior samples, nats `[N]`."""
    config, num_samples = run.config, run.config.num_importance_samples

    @jax.jit
    def estimate(params: Params, x: Array) -> Array:
        key = jax.random.key(config.seed + 2)
        return jg.objectives.importance_log_prob(
            key, model, params, x, num_samples=num_samples, chunk_size=50
        ).value

    return harness.evaluate(
        lambda x: estimate(params, x.astype(np.int32)),
        x,
        batch_size=40,
        directory=run.path / "evaluation",
        depends_on=params,
    )


def measured(
    data: Images,
    log_prob: np.ndarray,
    found: jg.objectives.Diagnostics,
    gaps: jg.objectives.InferenceGaps,
) -> dict[str, Metric]:
    """Return all numbers of the run."""
    num_draws = 100  # behind the diagnostics of each image
    groups = {}
    for layer, (active, kl) in enumerate(zip(found.num_active, found.group_kl, strict=True), 1):
        groups[f"active_units_{layer}"] = Metric(int(active), split="test")
        groups[f"kl_nats_{layer}"] = mean_metric(kl, "test")
    return {
        "test_importance_nats": mean_metric(-log_prob, "test"),
        "test_bits_per_dim": mean_metric(
            jg.objectives.bits_per_dim(log_prob, data.test.shape[1]), "test"
        ),
        "test_elbo_nats": mean_metric(-found.elbo, "test"),
        **groups,
        "mutual_information_nats": Metric(float(found.index_mutual_information), split="test"),
        "aggregate_kl_nats": Metric(float(found.aggregate_kl), split="test"),
        "effective_sample_share": mean_metric(found.effective_sample_size / num_draws, "test"),
        "share_of_khat_above_0.7": mean_metric(found.pareto_shape > 0.7, "test"),
        "approximation_gap_nats": mean_metric(gaps.approximation, "test"),
        "amortization_gap_nats": mean_metric(gaps.amortization, "test"),
    }


def draw_figures(
    run: harness.Run,
    model: jg.LatentVariableModel,
    fitted: jg.training.FitResult,
    data: Images,
    found: jg.objectives.Diagnostics,
    gaps: jg.objectives.InferenceGaps,
) -> None:
    """Draw all that the module docstring promises."""
    keys = jax.random.split(jax.random.key(run.config.seed + 3), 3)

    @jax.jit
    def latents(params: Params, x: Array) -> tuple[Any, Any]:
        z = model.posterior(params, x).sample(seed=keys[0], sample_shape=(200,))
        drawn = model.prior(params).sample(seed=keys[1], sample_shape=(24,))
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), z), drawn

    z, drawn = jax.device_get(latents(fitted.params, data.test[:12].astype(np.int32)))
    pairs, units = interpolations(z), traversals(z, found)
    reconstructed, sampled, *moved = decoded(
        model, fitted.params, [z, drawn, *pairs.values(), *units.values()]
    )
    rows = list(zip([*pairs, *units], moved, strict=True))
    sheets = {
        "samples.png": (
            [
                ("test images", data.test[:12]),
                ("reconstructed", reconstructed),
                ("samples", sampled[:12]),
                ("", sampled[12:]),
            ],
            "Reconstructions and samples (mean gray levels)",
        ),
        "interpolations.png": (
            rows[: len(pairs)],
            "From one test image to another, straight through the latent space",
        ),
        "traversals.png": (
            rows[len(pairs) :],
            "One unit at a time from -3 to 3, the rest as in the first test image",
        ),
    }
    for name, (rows, text) in sheets.items():
        run.save_figure(plots.image_rows(rows, data.shape, data.num_symbols - 1, text), name)
    sheet = tiled(sampled.reshape(-1, *data.shape))
    run.save_figure(diagnostics_figure(found, gaps, sheet), "diagnostics.png")
    curves = {"VAE": (run.rows("train"), fitted.best_step)}
    parts = {"reconstruction": "reconstruction, E[-log p(x | z)]", "kl": "KL(q(z | x) || p(z))"}
    run.save_figure(plots.learning_curves(curves, "nats per image", parts), "curve.png")


def decoded(
    model: jg.LatentVariableModel, params: Params, batches: Sequence[Any]
) -> list[np.ndarray]:
    """Mean gray levels of batches of latents, all in one program."""
    sizes = [len(jax.tree.leaves(batch)[0]) for batch in batches]
    z = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    means = jax.jit(lambda params, z: model.likelihood(params, z).mean())(params, z)
    return np.split(np.asarray(means), np.cumsum(sizes)[:-1])


def interpolations(z: Any, num_pairs: int = 4) -> dict[str, Any]:
    """Latents that lead from those of one image to those of another."""
    share = np.linspace(0.0, 1.0, 11, dtype=np.float32)[:, None]

    def between(i: int) -> Any:
        return jax.tree.map(lambda leaf: (1 - share) * leaf[2 * i] + share * leaf[2 * i + 1], z)

    return {f"pair {i + 1}": between(i) for i in range(num_pairs)}


def traversals(z: Any, found: jg.objectives.Diagnostics, num_units: int = 8) -> dict[str, Any]:
    """Latents with one unit of the group next to the data from −3 to 3, most active first."""
    groups, structure = jax.tree.flatten(jax.tree.map(lambda leaf: leaf[:1], z))
    variance = jax.tree.leaves(found.mean_variance)[0]
    steps, moved = np.linspace(-3.0, 3.0, 11, dtype=np.float32), {}
    for unit in np.argsort(-variance)[:num_units]:
        tiled = [np.tile(group, (len(steps), 1)) for group in groups]
        tiled[0][:, unit] = steps
        moved[f"unit {unit} ({variance[unit]:.2f})"] = jax.tree.unflatten(structure, tiled)
    return moved


def tiled(images: np.ndarray, num_columns: int = 6) -> np.ndarray:
    """Images `[N, H, W]`, N a multiple of the columns, as one, with a white line around each."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    height, width = padded.shape[1:]
    rows = padded.reshape(-1, num_columns, height, width)
    return rows.swapaxes(1, 2).reshape(-1, num_columns * width)


def diagnostics_figure(
    found: jg.objectives.Diagnostics, gaps: jg.objectives.InferenceGaps, samples: np.ndarray
) -> matplotlib.figure.Figure:
    """Units in use, the bound against the log-likelihood, the gap's two parts, and samples."""
    figure, grid = plots.subplots(2, 2, figsize=(9, 7))
    axes = grid.ravel()
    for layer, group in enumerate(jax.tree.leaves(found.mean_variance)):
        ordered = np.sort(np.maximum(group, 1e-4))[::-1]
        label, color = f"group {layer + 1}", plots.COLORS[layer]
        axes[0].semilogy(1 + np.arange(len(ordered)), ordered, "o-", label=label, color=color)
    axes[0].axhline(
        jg.objectives.ACTIVE, color=plots.COLORS[6], linestyle=":", label="active above"
    )
    axes[0].set(xlabel="unit, most active first", ylabel="variance of the posterior mean")
    axes[0].set_title("Units in use")
    axes[0].legend(fontsize=8)
    axes[1].scatter(found.log_prob, found.elbo, s=8, color=plots.COLORS[0])
    ends = [found.elbo.min(), found.log_prob.max()]
    axes[1].plot(ends, ends, color=plots.COLORS[6], linewidth=0.8)
    axes[1].set(
        xlabel="bound from 100 weights, nats",
        ylabel="ELBO, nats",
        title="Jensen's inequality: below the line",
    )
    order = np.argsort(gaps.approximation + gaps.amortization)
    parts = [part[order] for part in (gaps.approximation, gaps.amortization)]
    places = np.arange(len(order))
    axes[2].bar(places, parts[0], color=plots.COLORS[0], label="approximation")
    axes[2].bar(places, parts[1], bottom=parts[0], color=plots.COLORS[1], label="amortization")
    axes[2].set(xlabel="test image", ylabel="nats", title="log p(x) less the ELBO, in two parts")
    axes[2].legend(fontsize=8)
    axes[3].imshow(samples, cmap="Greys")
    axes[3].set(xticks=[], yticks=[], title="Samples (mean gray levels)")
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
