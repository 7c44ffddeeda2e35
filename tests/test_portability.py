"""Every public sampler, objective and model is lowered for CPUs, CUDA and TPUs."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_cases

import jaxgen as jg

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

PLATFORMS = ("cpu", "cuda", "tpu")
RNG = np.random.default_rng(0)
LINE = (-math.inf, math.inf)
models, objectives = jg.models, jg.objectives


class Row(NamedTuple):
    """What is lowered: `fn(key, *args)`, which calls the public names."""

    names: tuple[str, ...]
    fn: Callable[..., Any]
    args: tuple[Any, ...]


class Shapes(NamedTuple):
    """Parameters of a model, of which lowering needs the shapes alone; not traced before that."""

    model: Any
    x: np.ndarray


def shapes(leaf: Any) -> Any:
    if not isinstance(leaf, Shapes):
        return leaf
    return jax.eval_shape(leaf.model.init, jax.random.key(0), leaf.x[:1])


def chain(*names: str, model: Any, x: Any = None, params: Any = None) -> Row:
    """A row of an autoregressive model: its gradient, and its draws after a prompt."""
    x = RNG.integers(0, model.num_symbols, (4, model.num_dims)) if x is None else x

    def both(key: Any, params: Any, x: Any) -> Any:
        gradient = jax.grad(lambda params: jg.log_prob(model, params, x).mean())(params)
        return gradient, jg.sample(key, model, params, prompt=x[:, :1]).x

    return Row(names, both, (Shapes(model, x) if params is None else params, x))


def latent(*names: str, model: Any, x: Any = None, params: Any = None) -> Row:
    """A row of a latent-variable model: its bound's gradient, and draws of the data."""
    x = RNG.integers(0, model.num_symbols, (4, model.num_dims)) if x is None else x

    def both(key: Any, params: Any, x: Any) -> Any:
        bound_key, z_key, x_key = jax.random.split(key, 3)

        def bound(params: Any) -> Any:
            return jg.elbo(bound_key, model, params, x, kl="monte_carlo").value.mean()

        z = model.prior(params).sample(seed=z_key, sample_shape=(4,))
        draws = model.likelihood(params, z).sample(seed=x_key)
        return jax.grad(bound, allow_int=True)(params), draws

    return Row(names, both, (Shapes(model, x) if params is None else params, x))


BITS = np.zeros((4, 3), int)
REALS = RNG.normal(size=(4, 3)).astype(np.float32)
COLUMNS = (
    models.Mixture(num_components=2),
    models.Energy(support=(0.0, math.inf), num_panels=2, num_nodes=4),
    models.Spline(num_bins=3),
)
BOUNDED = (
    models.TruncatedMixture(num_components=2, family="student_t"),
    models.TruncatedMixture((0.0, 1.0), num_components=2),
    models.FoldedMixture((0.0, 1.0), num_components=2),
)
SPLINES = models.SplineCoupling(num_steps=1, num_bins=3, hidden_size=3)
MASKED = models.MaskedAutoregressive(num_steps=1, hidden_sizes=(4,), num_bins=3)
AFFINE = models.InverseAutoregressive(num_steps=1, hidden_size=4)
MEMBER = models.Independent(3, 2)
MADE = models.MADE(3, 2, (4,))
LINEAR = models.LinearGaussian()
LINEAR_PARAMS = models.LinearGaussianParams(
    loadings=np.ones((3, 2), "f4"),
    log_noise=np.zeros((), "f4"),
    posterior_weights=np.ones((2, 3), "f4"),
    posterior_factor=np.eye(2, dtype="f4"),
)
GAUSSIANS = models.GaussianMixture(
    np.zeros(2, "f4"), np.zeros((2, 3), "f4"), np.stack([np.eye(3, dtype="f4")] * 2)
)
QUANTIZED = models.VectorQuantizedVAE(8, 2, models.Convolutions((2, 4), (3,)), 3, 2)
QUANTIZED_PARAMS = {
    "autoencoder": Shapes(QUANTIZED, np.zeros((1, 8), int)),
    "code_prior": Shapes(models.MADE(2, 3, (4,)), np.zeros((1, 2), int)),
}
VAE = models.VAE(3, 2, 1, (4,))


def two_modes(theta: Any, y: Any) -> Any:
    return jnp.logaddexp(theta[0] - 0.5 * (y - 1.0) ** 2, -0.5 * (y + 1.0) ** 2)


TABLES_VAE = models.VAE(
    3, 2, 1, (4,), posterior_family=models.InverseCDFPosterior(two_modes, (0.5,))
)


def of_density(model: Any) -> Callable[..., Any]:
    def both(key: Any, params: Any, x: Any) -> Any:
        gradient = jax.grad(lambda params: model.log_prob(params, x).mean())(params)
        return gradient, model.sample(key, params, 4)

    return both


MODELS = {
    "made": chain("MADE", "Categorical", "Labels", model=models.MADE(3, 3, (4,))),
    "made_of_columns": chain(
        *("Mixed", "Mixture", "Energy", "Spline"),
        model=models.MADE(3, None, (4,), conditional=models.Mixed(COLUMNS)),
        x=np.abs(REALS),
    ),
    "made_of_bounded": chain(
        *("TruncatedMixture", "FoldedMixture"),
        model=models.MADE(3, None, (4,), conditional=models.Mixed(BOUNDED)),
        x=np.abs(REALS) / np.abs(REALS).max(),
    ),
    "made_of_angles": chain(
        "Angles",
        model=models.MADE(3, None, (4,), conditional=models.Angles(num_components=2)),
        x=REALS,
    ),
    "order_agnostic": chain("OrderAgnostic", model=models.OrderAgnostic(3, 2, (4,))),
    "nade": chain("NADE", model=models.NADE(3, 2, hidden_size=4)),
    "gated_pixelcnn": chain(
        *("GatedPixelCNN", "LogisticMixture"),
        model=models.GatedPixelCNN(
            (2, 2), 4, 4, 1, 3, head_width=4, conditional=models.LogisticMixture(4, 2)
        ),
    ),
    "pixelsnail": chain("PixelSNAIL", model=models.PixelSNAIL((2, 2), 4, 4, 1, 1, 3, 3, 1)),
    "linear_recurrence": chain("LinearRecurrence", model=models.LinearRecurrence(3, 3, 4, 1)),
    "transformer": chain(
        "CausalTransformer", model=models.CausalTransformer(4, 3, 4, 1, 1, block_size=2)
    ),
    "committee": chain(
        *("Committee", "Independent"),
        model=models.Committee((MEMBER, MADE)),
        params=tuple(Shapes(member, np.zeros((1, 3), int)) for member in (MEMBER, MADE)),
    ),
    "sliding_window": chain(
        "SlidingWindow",
        model=models.SlidingWindow(MADE, 8),
        x=RNG.integers(0, 2, (4, 8)),
        params=Shapes(MADE, np.zeros((1, 3), int)),
    ),
    "orders": Row(
        ("reordered", "order_ensemble_log_prob"),
        lambda key, params, x, order: models.order_ensemble_log_prob(
            MADE,
            jax.tree.map(lambda a: a[None], models.reordered(params, order)),
            x,
            np.arange(3)[None],
        ),
        (Shapes(MADE, np.zeros((1, 3), int)), np.zeros((4, 3), int), np.arange(3)),
    ),
    "vae": latent("VAE", "StandardNormal", "DiagonalNormal", "Bits", model=VAE),
    "vae_of_mixtures": latent(
        *("MixtureOfNormals", "SharedNormal"),
        model=models.VAE(
            3,
            None,
            1,
            (4,),
            conditional=models.SharedNormal(),
            prior_family=models.MixtureOfNormals(2),
        ),
        x=REALS,
    ),
    "vae_of_flows": latent(
        *("FlowPrior", "FlowPosterior", "SplineCoupling", "InverseAutoregressive"),
        model=models.VAE(
            3,
            2,
            2,
            (4,),
            prior_family=models.FlowPrior(SPLINES),
            posterior_family=models.FlowPosterior(AFFINE),
        ),
    ),
    "vae_of_tables": Row(
        ("InverseCDFPosterior",),
        lambda key, params, x: TABLES_VAE.posterior(params, x).sample(seed=key),
        (Shapes(TABLES_VAE, BITS), BITS),
    ),
    "vae_of_images": latent(
        *("Convolutions", "VampPrior", "Ordinal"),
        model=models.VAE(
            4,
            3,
            1,
            (4,),
            models.Convolutions((2, 2), (2,)),
            conditional=models.Ordinal(3),
            prior_family=models.VampPrior(2),
        ),
    ),
    "hierarchical": latent(
        "HierarchicalVAE", model=models.HierarchicalVAE(3, 2, (1, 1), ((3,), (2,)))
    ),
    "deep_hierarchical": latent(
        *("DeepHierarchicalVAE", "Scale"),
        model=models.DeepHierarchicalVAE(4, 2, (2, 2), (models.Scale(2, 3, 2, 2, 1),)),
    ),
    "discrete": latent("DiscreteVAE", model=models.DiscreteVAE(3, 2, 2, 2, 0.7, (4,))),
    "linear_gaussian": latent(
        *("LinearGaussian", "LinearGaussianParams"), model=LINEAR, x=REALS, params=LINEAR_PARAMS
    ),
    "vector_quantized": latent(
        *("VectorQuantizedModel", "VectorQuantizedVAE"),
        model=models.VectorQuantizedModel(QUANTIZED, models.MADE(2, 3, (4,))),
        params=QUANTIZED_PARAMS,
    ),
    "normalizing_flow": Row(
        ("NormalizingFlow", "MaskedAutoregressive", "Covariates"),
        of_density(models.NormalizingFlow(3, MASKED)),
        (Shapes(models.NormalizingFlow(3, MASKED), REALS), REALS),
    ),
    "gaussian_mixture": Row(
        ("GaussianMixture",),
        lambda key, mixture, x: (mixture.em_step(x), mixture.sample(key, 4)),
        (GAUSSIANS, REALS),
    ),
}
VAE_PARAMS = Shapes(VAE, BITS)
LOG_WEIGHTS = RNG.normal(size=(5, 4)).astype(np.float32)
CODES = np.zeros(4, int)


def of_vae(name: str, **options: Any) -> Row:
    return Row(
        (name,),
        lambda key, params, x: getattr(objectives, name)(key, VAE, params, x, **options),
        (VAE_PARAMS, BITS),
    )


def of_numbers(*names: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Row:
    return Row(names, lambda key, *args: fn(*args), args)


OBJECTIVES = {
    "iwae": Row(
        ("iwae", "multi_sample_bound", "iwae_bound", "elbo_bound"),
        lambda key, params, x: jax.grad(
            lambda params: (
                objectives.iwae(key, VAE, params, x, num_samples=3).mean()
                + objectives.multi_sample_bound(
                    jax.random.fold_in(key, 1),
                    objectives.elbo_bound,
                    VAE,
                    params,
                    x,
                    num_samples=3,
                    gradient="vimco",
                ).mean()
            )
        )(params),
        (VAE_PARAMS, BITS),
    ),
    "elbo": of_vae("elbo"),
    "log_weights": of_vae("log_weights", num_samples=3),
    "importance_log_prob": of_vae("importance_log_prob", num_samples=50),
    "diagnose": of_vae("diagnose", num_samples=25),
    "posterior_mean_variance": of_vae("posterior_mean_variance", num_samples=4),
    "inference_gaps": of_vae("inference_gaps", num_steps=2, num_samples=4),
    "quadrature_log_prob": Row(
        ("quadrature_log_prob",),
        lambda key, params, x: objectives.quadrature_log_prob(
            VAE, params, x, jg.gauss_legendre(-5.0, 5.0, 8)
        ),
        (VAE_PARAMS, BITS),
    ),
    "dequantized_log_prob": Row(
        ("dequantized_log_prob",),
        lambda key, x: objectives.dequantized_log_prob(key, lambda _, y: -jnp.sum(y**2), None, x),
        (REALS,),
    ),
    "log_prob": of_numbers(
        *("log_prob", "bits_per_dim", "perplexity"),
        fn=lambda params, x: [
            units(objectives.log_prob(MADE, params, x), 3)
            for units in (objectives.bits_per_dim, objectives.perplexity)
        ],
        args=(Shapes(MADE, BITS), BITS),
    ),
    "kl_weights": of_numbers(
        *("free_bits", "cyclical_weight"),
        fn=lambda kl, step: objectives.free_bits(kl, 0.5) * objectives.cyclical_weight(step, 10),
        args=(LOG_WEIGHTS, np.int32(3)),
    ),
    "codes": of_numbers(
        *("code_usage", "commitment", "copy_gradient"),
        fn=lambda h, e, z: (
            objectives.commitment(objectives.copy_gradient(h, e), e),
            objectives.code_usage(z, 3),
        ),
        args=(REALS, REALS, CODES),
    ),
    "codebook": Row(
        ("moving_average_codebook",),
        objectives.moving_average_codebook,
        (np.ones((2, 3), "f4"), np.ones(2, "f4"), REALS, CODES),
    ),
}
TABLES = {"samplers": sampler_cases.CASES, "models": MODELS, "objectives": OBJECTIVES}
EXCLUDED = {
    "samplers": sampler_cases.EXCLUDED,
    "models": {
        "Conditional": "a class to derive from",
        "LinenAutoregressiveModel": "a class to derive from",
        "LinenLatentVariableModel": "a class to derive from",
        "fit_independent": "counts in NumPy",
        "ordered": "picks a class",
        "set_output_bias": "counts in NumPy",
        "standardized": "statistics in NumPy",
        "unordered": "picks a class",
        "whitened": "statistics in NumPy",
    },
    "objectives": {
        "ACTIVE": "a number",
        "BoundFn": "a type",
        "Diagnostics": "a result",
        "ELBO": "a result",
        "Gradient": "a type",
        "InferenceGaps": "a result",
    },
}
ROWS = [(package, name) for package, table in TABLES.items() for name in table]


@pytest.mark.parametrize("package", TABLES)
def test_every_public_name_is_lowered_or_excluded(package):
    lowered = {name for row in TABLES[package].values() for name in row.names}
    excluded = set(EXCLUDED[package])
    assert lowered | excluded == set(getattr(jg, package).__all__)
    assert not lowered & excluded


@functools.cache
def key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize(("package", "name"), ROWS)
def test_is_lowered_for_every_platform(package, name):
    row = TABLES[package][name]
    args = row.rows if package == "samplers" else row.args
    args = jax.tree.map(shapes, args, is_leaf=lambda leaf: isinstance(leaf, Shapes))
    exported = jax.export.export(jax.jit(row.fn), platforms=PLATFORMS)(key_shape(), *args)
    assert exported.platforms == PLATFORMS


def test_what_one_platform_lacks_is_caught():
    def fn(x):
        return jax.lax.platform_dependent(x, cpu=jnp.sin)  # and nothing else

    with pytest.raises(Exception, match="platform"):
        jax.export.export(jax.jit(fn), platforms=PLATFORMS)(REALS)
