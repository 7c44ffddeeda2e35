"""The vector-quantised autoencoder, and the generative model that it makes with a prior."""

import distrax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count, check_shape
from jaxgen.core.likelihood_terms import categorical_log_prob
from jaxgen.core.types import Array, AutoregressiveModel, Key, LatentVariableModel, Params
from jaxgen.models import contracts
from jaxgen.models.layers.convolutions import Convolutions
from jaxgen.models.layers.linear import Dense
from jaxgen.models.layers.observations import Observation, Symbols
from jaxgen.samplers import ancestral


class VectorQuantizedVAE(nn.Module):
    r"""An image as a grid of codes, each the nearest of K vectors (van den Oord et al. 2017).

    .. math:: z_t(x) = \arg\min_k \lVert h_t(x) - e_k \rVert, \qquad e_k = m_k / n_k

    The codebook is kept as sums m and counts n, which follow the data by moving averages; what
    training needs is in `objectives/vector_quantization.py`. The grid is that of the smallest
    feature maps.

    Attributes:
      num_dims: D, the coordinates of a data point.
      num_symbols: V, the number of values that a coordinate takes; None for real numbers.
      convolutions: the layers between image and grid.
      num_codes: K.
      code_size: E, the size of a code's vector.
      observation: the family of p(x | z), of `models/layers/observations.py`.
    """

    num_dims: int
    num_symbols: int | None
    convolutions: Convolutions
    num_codes: int = 64
    code_size: int = 16
    observation: Observation = Symbols()

    @property
    def num_positions(self) -> int:
        """T, the codes of a data point."""
        height, width, _ = self.convolutions.smallest
        return height * width

    def setup(self) -> None:
        """Check the fields and create the layers."""
        check_count("num_dims", self.num_dims)
        check_count("num_codes", self.num_codes, minimum=2)
        check_count("code_size", self.code_size)
        shape = (self.num_codes, self.code_size)
        self.code_sums = self.param("code_sums", nn.initializers.normal(1.0), shape)
        self.code_counts = self.param("code_counts", nn.initializers.ones, shape[:1])
        self.halves = self.convolutions.down()
        self.to_codes = Dense(self.code_size)
        self.from_codes = Dense(self.convolutions.channels[-1])
        self.doubles = self.convolutions.up()
        num_outputs = self.num_dims * self.observation.num_outputs(self.num_symbols)
        self.outputs = self.convolutions.outputs(num_outputs)

    def __call__(self, x: Array) -> distrax.Distribution:
        """p(x | z(x)); touches every parameter, what `init` calls."""
        return self.likelihood(self.quantize(self.encode(x)))

    def encode(self, x: Array) -> Array:
        """h, `[..., T, E]`, for data `[..., D]`."""
        h = self.observation.features(x, self.num_symbols)
        h = h.reshape(*x.shape[:-1], *self.convolutions.image_shape, -1)
        for layer in self.halves:
            h = layer(h)
        return self.to_codes(h).reshape(*x.shape[:-1], self.num_positions, self.code_size)

    def quantize(self, h: Array) -> Array:
        """The nearest code of each position, int32 `[..., T]`."""
        codebook = self._codebook()
        # ‖h‖² is the same for every code.
        distance = jnp.sum(codebook**2, axis=-1) - 2.0 * h @ codebook.T
        return jnp.argmin(distance, axis=-1).astype(jnp.int32)

    def vectors(self, z: Array) -> Array:
        """The vectors of codes `[..., T]`: `[..., T, E]`."""
        return self._codebook()[z]

    def decode(self, vectors: Array) -> distrax.Distribution:
        """p(x | vectors) for `[..., T, E]`: batch shape [...], event shape [D]."""
        check_shape("vectors", vectors, (*vectors.shape[:-2], self.num_positions, self.code_size))
        batch_shape = vectors.shape[:-2]
        h = nn.gelu(self.from_codes(vectors))
        h = h.reshape(*batch_shape, *self.convolutions.smallest)
        for double in self.doubles:
            h = double(h)
        outputs = self.outputs(h).reshape(*batch_shape, self.num_dims, -1)
        return self.observation(outputs, self.num_symbols)

    def likelihood(self, z: Array) -> distrax.Distribution:
        """p(x | z) for codes `[..., T]`."""
        return self.decode(self.vectors(z))

    def _codebook(self) -> Array:
        return self.code_sums / self.code_counts[:, None]


def with_prior(module: VectorQuantizedVAE, prior: nn.Module) -> LatentVariableModel:
    r"""The generative model of codes drawn from a prior and images drawn from codes.

    .. math:: \log p(x) = \log \sum_z p(x \mid z)\, p(z) \ge \log p(x \mid z(x)) + \log p(z(x))

    Its posterior is the point mass at z(x), so every importance weight, and the ELBO
    (`kl="monte_carlo"`), is the right-hand side: a bound on the model's likelihood.

    Args:
      module: the autoencoder.
      prior: an autoregressive module with `num_dims` = T and `num_symbols` = K.

    Returns:
      The three functions, of parameters `{"autoencoder": …, "prior": …}`.

    Raises:
      ValueError: the prior is over other codes than the autoencoder has.
    """
    found = (prior.num_dims, prior.num_symbols)
    if found != (module.num_positions, module.num_codes):
        raise ValueError(
            f"prior must be over {module.num_positions} codes of {module.num_codes} values, got "
            f"num_dims and num_symbols {found}"
        )
    codes = contracts.autoregressive(prior)

    def posterior(params: Params, x: Array) -> distrax.Distribution:
        h = module.apply(params["autoencoder"], x, method="encode")
        z = module.apply(params["autoencoder"], h, method="quantize")
        return distrax.Independent(distrax.Deterministic(z), 1)

    def likelihood(params: Params, z: Array) -> distrax.Distribution:
        return module.apply(params["autoencoder"], z, method="likelihood")

    return LatentVariableModel(
        lambda params: Chained(codes, params["prior"]), posterior, likelihood
    )


class Chained(distrax.Distribution):
    """The distribution of an autoregressive model, with integers `[D]` as events."""

    def __init__(self, model: AutoregressiveModel, params: Params) -> None:
        """Keep the model and its parameters."""
        self._model, self._params = model, params

    @property
    def event_shape(self) -> tuple[int, ...]:
        """[D]."""
        return (self._model.num_dims,)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """None."""
        return ()

    def log_prob(self, value: Array) -> Array:
        """Nats of symbols `[..., D]`."""
        flat = value.reshape(-1, value.shape[-1])
        logits = self._model.logits(self._params, flat)
        return jnp.sum(categorical_log_prob(logits, flat), axis=-1).reshape(value.shape[:-1])

    def _sample_n(self, key: Key, n: int) -> Array:
        return ancestral.sample(key, self._params, self._model, n).x
