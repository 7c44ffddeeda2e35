"""The rows of `experiments.iwae`: model, bound and how it is trained."""

import dataclasses
from typing import Any

import optax

import jaxgen as jg
from jaxgen.core import Array

NUM_DIMS = 784


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell of the table."""

    model: jg.VAE | jg.HierarchicalVAE | jg.DeepHierarchicalVAE
    """The model."""
    bound_fn: jg.objectives.BoundFn
    """What training maximizes, as a function of the importance weights."""
    num_samples: int
    """k, the posterior samples of each image in a training step."""
    num_epochs: int
    """Epochs of training."""
    reference: str = ""
    """The published number and where it stands."""
    gradient: jg.objectives.Gradient = "reparameterized"
    """How the bound's gradient is estimated."""
    resample: bool = False
    """Whether the gradient goes through one of the k samples, resampled by weight."""
    batch_size: int = 100
    """Images in a step."""
    learning_rate: float = 3e-3
    """The highest rate, after an ascent; it falls to nothing along a cosine."""
    warm_up: float = 0.0
    """The share of the steps in which the weight of the divergence rises from 0 to 1."""
    uses_soap: bool = False
    """Whether the method is SOAP instead of Adam."""
    average_decay: float = 0.999
    """Of the moving average of the parameters, which is what is judged and kept."""
    starts_from: str | None = None
    """The row whose published weights training starts from; None starts from random ones."""
    free_bits: float | None = None
    """Nats that each group of latents may use for free, and the divergence by formula.

    None takes both parts of the bound from the same draws.
    """
    num_validations: int = 50
    """How often images that are held out are looked at."""
    num_validation_samples: int = 20
    """Posterior samples of each of them, if there are not more in training."""

    def beta(self, step: Array, num_steps: int) -> Array:
        """Weigh the divergence; its rise keeps latents in use (Sønderby et al. 2016)."""
        rise = self.warm_up * num_steps
        return optax.linear_schedule(1 / (rise + 1), 1.0, rise)(step)

    def optimizer(self, num_steps: int) -> optax.GradientTransformation:
        """Adam or SOAP with clipped gradients under the row's schedule."""
        # Ascending, so that weights to start from survive until Adam knows the gradients' scales.
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, min(1000, num_steps // 10), num_steps
        )
        method = jg.training.soap(rate) if self.uses_soap else optax.adam(rate)
        return optax.chain(optax.clip_by_global_norm(100.0), method)


ONE_LAYER = jg.VAE(NUM_DIMS, 2, 50, (200, 200))
TWO_LAYERS = jg.HierarchicalVAE(NUM_DIMS, 2, (100, 50), ((200, 200), (100, 100)))
PAPER = "Burda et al. 2015"
# Epochs, rate and images in a step for each number of layers and k; one layer with 50 samples has
# the paper's batches, but for `iwae_dreg`.
SCHEDULES = {
    (1, 1): (2000, 3e-3, 100),
    (1, 5): (800, 2e-3, 100),
    (1, 50): (280, 4e-4, 20),
    (2, 1): (1500, 3e-3, 100),
    (2, 5): (1000, 2e-3, 100),
    (2, 50): (20, 1e-3, 100),
}
PARTS: dict[str, Any] = {
    "convolutions": jg.models.Convolutions((28, 28), (8, 16)),
    "prior_family": jg.models.MixtureOfNormals(500),
    "posterior_family": jg.models.FlowPosterior(),
}


def _row(
    model: jg.VAE | jg.HierarchicalVAE,
    bound_fn: jg.objectives.BoundFn,
    num_samples: int,
    reference: str,
    gradient: jg.objectives.Gradient = "reparameterized",
) -> Row:
    num_layers, warm_up = (1, 0.0) if model is ONE_LAYER else (2, 0.2)
    num_epochs, rate, batch_size = SCHEDULES[num_layers, num_samples]
    return Row(
        model,
        bound_fn,
        num_samples,
        num_epochs,
        reference,
        gradient,
        # One backward pass for 50 samples: a far cheaper step, and a noisier gradient.
        num_samples == 50 and bound_fn is jg.objectives.iwae_bound,
        batch_size,
        rate,
        warm_up=warm_up,
    )


def _vae(model: jg.VAE | jg.HierarchicalVAE, num_samples: int, nats: str) -> Row:
    return _row(model, jg.objectives.elbo_bound, num_samples, f"{nats} ({PAPER})")


def _iwae(model: jg.VAE | jg.HierarchicalVAE, num_samples: int, nats: str) -> Row:
    return _row(model, jg.objectives.iwae_bound, num_samples, f"{nats} ({PAPER})")


def _own(without: str = "") -> Row:
    """A VAE with every part that may help, or that one without one of them: 15 minutes."""
    parts = {name: part for name, part in PARTS.items() if name != without}
    reference = "none; ours" + (f" without {without}" if without else "")
    return Row(jg.VAE(NUM_DIMS, 2, 32, (300,), **parts), jg.objectives.elbo_bound, 1, 40, reference)


def _after(name: str, row: Row, warm_up: float = 0.0) -> Row:
    """A step with many samples costs more, so most of the way goes with fewer.

    More samples can use more latents than the start does; a warm-up wakes them.
    """
    return dataclasses.replace(row, starts_from=name, warm_up=warm_up)


def _deep() -> Row:
    """A deep hierarchical VAE: four groups for the whole image, then three of 7×7 maps."""
    scales = (jg.models.Scale(4, 48, 24, 3, 1), jg.models.Scale(7, 128, 128, 4, 8))
    return Row(
        jg.DeepHierarchicalVAE(NUM_DIMS, 2, (28, 28), scales),
        jg.objectives.elbo_bound,
        1,
        80,
        "79.1 to 80.7 (VDVAE; pytorch-generative)",
        warm_up=0.1,
        learning_rate=2e-3,
        free_bits=1.0,
        num_validations=15,
        num_validation_samples=1,
    )


# With one sample both bounds are the ELBO: the paper's two cells for k = 1 are one training.
ROWS = {
    "vae/1/k1": _vae(ONE_LAYER, 1, "86.76"),
    "vae/1/k5": _after("vae/1/k1", _vae(ONE_LAYER, 5, "86.47")),
    "vae/1/k50": _after("vae/1/k5", _vae(ONE_LAYER, 50, "86.35")),
    "iwae/1/k5": _iwae(ONE_LAYER, 5, "85.54"),
    "iwae/1/k50": _after("iwae/1/k5", _iwae(ONE_LAYER, 50, "84.78"), warm_up=0.25),
    "iwae_dreg/1/k50": dataclasses.replace(
        _after(
            "iwae/1/k50",
            _row(
                ONE_LAYER,
                jg.objectives.iwae_bound,
                50,
                "none; ours, with DReG gradients, SOAP and two warm starts",
                "doubly_reparameterized",
            ),
        ),
        num_epochs=190,
        batch_size=100,
        learning_rate=2e-3,
        uses_soap=True,
    ),
    "vae/2/k1": _vae(TWO_LAYERS, 1, "85.33"),
    "vae/2/k5": _after("vae/2/k1", _vae(TWO_LAYERS, 5, "85.01")),
    "vae/2/k50": _after("vae/2/k5", _vae(TWO_LAYERS, 50, "84.78")),
    "iwae/2/k5": _iwae(TWO_LAYERS, 5, "83.89"),
    "iwae/2/k50": _after("iwae/2/k5", _iwae(TWO_LAYERS, 50, "82.90")),
    "own/all_parts": _own(),
    "own/no_convolutions": _own("convolutions"),
    "own/no_prior": _own("prior_family"),
    "own/no_posterior": _own("posterior_family"),
    "dynamic/deep_vae": _deep(),
    "iwae/2/smoke": Row(
        jg.HierarchicalVAE(NUM_DIMS, 2, (3, 2), ((5,), (4,))),
        jg.objectives.iwae_bound,
        2,
        num_epochs=2,
        resample=True,
        warm_up=0.5,
    ),
}
