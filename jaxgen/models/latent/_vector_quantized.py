"""The vector-quantized autoencoder, and the generative model that it makes with a prior."""

import dataclasses
import math
from typing import Any

import distrax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._arrays import as_symbols, nan_unless
from jaxgen.core._checks import check_count, check_shape
from jaxgen.core._conditional import Conditional
from jaxgen.core._contracts import AutoregressiveModel, LatentVariableModel
from jaxgen.core._types import Array, Key, Params
from jaxgen.models._context import Conditioning, Covariates, context_features
from jaxgen.models.latent._module import LinenLatentVariableModel, joined
from jaxgen.models.layers._convolutions import Convolutions
from jaxgen.models.layers._linear import Dense
from jaxgen.models.layers._rematerialized import rematerialized
from jaxgen.samplers import _ancestral as ancestral


class VectorQuantizedVAE(LinenLatentVariableModel):
    r"""An image as a grid of codes, each the nearest of K vectors (van den Oord et al. 2017).

    .. math:: z_t(x) = \arg\min_k \lVert h_t(x) - e_k \rVert, \qquad e_k = m_k / n_k

    The codebook is kept as sums m and counts n, which follow the data by moving averages. The grid
    is that of the smallest feature maps. As a latent-variable model its posterior is the point mass
    at z(x) and its prior uniform over the codes; `VectorQuantizedModel` puts a learned prior in its
    place.

    Attributes:
      num_dims: D, the coordinates of a data point.
      num_symbols: V, the number of values that a coordinate takes; None for real numbers.
      convolutions: the layers between image and grid.
      num_codes: K.
      code_size: E, the size of a code's vector.
      conditional: the family of p(x_i | z); None takes ordered symbols, or normals for reals.
      conditioning: `Labels` or `Covariates` that z(x) and p(x | z) also depend on.
      dtype: of feature maps, None for that of the parameters; parameters, vectors and what is said
        of data stay in float32.
      remat: whether training keeps of each network its input alone, and computes the rest again.
    """

    num_dims: int
    num_symbols: int | None
    convolutions: Convolutions
    num_codes: int = 64
    code_size: int = 16
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = False

    @property
    def num_positions(self) -> int:
        """Return T, the codes of a data point."""
        height, width, _ = self.convolutions.smallest
        return height * width

    def setup(self) -> None:
        """Check the fields and create the layers."""
        check_count("num_codes", self.num_codes, minimum=2)
        check_count("code_size", self.code_size)
        shape = (self.num_codes, self.code_size)
        self.code_sums = self.param("code_sums", nn.initializers.normal(1.0), shape)
        self.code_counts = self.param("code_counts", nn.initializers.ones, shape[:1])
        super().setup()
        self.halves = self.convolutions.down(self.dtype)
        self.to_codes = Dense(self.code_size, dtype=self.dtype, in_float32=True)
        self.from_codes = Dense(self.convolutions.channels[-1], dtype=self.dtype)
        self.doubles = self.convolutions.up(self.dtype)
        self.outputs = self.convolutions.outputs(self.num_outputs, self.dtype)

    @nn.nowrap
    def encode(self, params: Params, x: Array, *, context: Any = None) -> Array:
        """Return the encoder's vectors h, `[..., T, E]`, of data `[..., D]`."""
        return jnp.asarray(self.apply(params, jnp.asarray(x), context, method="_encode"))

    @nn.nowrap
    def quantize(self, params: Params, h: Array) -> Array:
        """Return the nearest code of each vector `[..., E]`, int32 `[...]`; −1 for one with NaN."""
        return jnp.asarray(self.apply(params, h, method="_quantize"))

    @nn.nowrap
    def vectors(self, params: Params, z: Array) -> Array:
        """Return the vectors `[..., E]` of codes `[...]`; NaN for what is no code."""
        return jnp.asarray(self.apply(params, z, method="_vectors"))

    @nn.nowrap
    def decode(
        self, params: Params, vectors: Array, *, context: Any = None
    ) -> distrax.Distribution:
        """Return p(x | vectors) for `[..., T, E]`: batch shape [...], event shape [D]."""
        return self.apply(params, vectors, context, method="_decode")

    def _prior(self, context: Any) -> distrax.Distribution:
        del context
        logits = jnp.zeros((self.num_positions, self.num_codes))
        return distrax.Independent(distrax.Categorical(logits), 1)

    def _posterior(self, x: Array, context: Any) -> distrax.Distribution:
        z = self._quantize(self._encode(x, context))
        return distrax.Independent(distrax.Deterministic(z), 1)

    def _likelihood(self, z: Array, context: Any) -> distrax.Distribution:
        return self._decode(self._vectors(z), context)

    @rematerialized
    def _encode(self, x: Array, context: Any) -> Array:
        h = self.convolutions.as_maps(self._data_features(x))
        for layer in self.halves:
            h = layer(h)
        h = h.reshape(*x.shape[:-1], self.num_positions, h.shape[-1])
        return self.to_codes(self._at_positions(h, context))

    def _quantize(self, h: Array) -> Array:
        codebook = self._codebook()
        # ‖h‖² is the same for every code.
        distance = jnp.sum(codebook**2, axis=-1) - 2.0 * h @ codebook.T
        nearest = jnp.argmin(distance, axis=-1).astype(jnp.int32)
        return jnp.where(jnp.any(jnp.isnan(distance), axis=-1), -1, nearest)

    def _vectors(self, z: Array) -> Array:
        z = as_symbols("z", z, self.num_codes)
        return nan_unless((z >= 0)[..., None], self._codebook()[z])

    def _decode(self, vectors: Array, context: Any) -> distrax.Distribution:
        check_shape("vectors", vectors, (*vectors.shape[:-2], self.num_positions, self.code_size))
        return self._distribution(self._decoded(vectors, context))

    @rematerialized
    def _decoded(self, vectors: Array, context: Any) -> Array:
        h = nn.gelu(self.from_codes(self._at_positions(vectors, context)))
        h = h.reshape(*vectors.shape[:-2], *self.convolutions.smallest)
        for double in self.doubles:
            h = double(h)
        return self.outputs(h)

    def _at_positions(self, h: Array, context: Any) -> Array:
        """Return `[..., T, H]` with the features of the context behind, at every position."""
        features = self._context_features(context, h.shape[:-2])
        return h if features is None else joined(h, features[..., None, :])

    def _codebook(self) -> Array:
        return self.code_sums / self.code_counts[:, None]


@dataclasses.dataclass(frozen=True)
class VectorQuantizedModel(LatentVariableModel):
    r"""The generative model of codes drawn from a learned prior and images drawn from codes.

    .. math:: \log p(x) = \log \sum_z p(x \mid z)\, p(z) \ge \log p(x \mid z(x)) + \log p(z(x))

    Its posterior is the point mass at z(x), so every importance weight, and the ELBO
    (`kl="monte_carlo"`), is the right-hand side: a bound on the model's likelihood. Parameters are
    `{"autoencoder": …, "code_prior": …}`. A context goes to each part that has a `conditioning`.

    Attributes:
      autoencoder: what makes codes of images, and images of codes.
      code_prior: p(z), an autoregressive model with `num_dims` = T and `num_symbols` = K.
    """

    autoencoder: VectorQuantizedVAE
    code_prior: AutoregressiveModel

    def __post_init__(self) -> None:
        """Refuse a prior over other codes than the autoencoder has."""
        found = (self.code_prior.num_dims, self.code_prior.num_symbols)
        wanted = (self.autoencoder.num_positions, self.autoencoder.num_codes)
        if found != wanted:
            raise ValueError(
                f"code_prior must be over {wanted[0]} codes of {wanted[1]} values, got "
                f"num_dims and num_symbols {found}"
            )

    @property
    def num_dims(self) -> int:
        """Return D, the coordinates of a data point."""
        return self.autoencoder.num_dims

    @property
    def num_symbols(self) -> int | None:
        """Return V, the number of values that a coordinate takes; None for real numbers."""
        return self.autoencoder.num_symbols

    def prior(self, params: Params, *, context: Any = None) -> distrax.Distribution:
        """Return p(z), with integers `[T]` as events."""
        context = self._context_of(self.code_prior, context)
        return ChainDistribution(self.code_prior, params["code_prior"], context)

    def posterior(self, params: Params, x: Array, *, context: Any = None) -> distrax.Distribution:
        """Return the point mass at z(x) for data `[B, D]`."""
        context = self._context_of(self.autoencoder, context)
        return self.autoencoder.posterior(params["autoencoder"], x, context=context)

    def likelihood(self, params: Params, z: Array, *, context: Any = None) -> distrax.Distribution:
        """Return p(x | z) for codes `[..., B, T]`."""
        context = self._context_of(self.autoencoder, context)
        return self.autoencoder.likelihood(params["autoencoder"], z, context=context)

    def _context_of(self, part: Any, context: Any) -> Any:
        parts = (self.autoencoder, self.code_prior)
        if all(getattr(part, "conditioning", None) is None for part in parts):
            context_features(None, context, ())
        return None if getattr(part, "conditioning", None) is None else context


class ChainDistribution(distrax.Distribution):
    """The distribution of an autoregressive model, with integers `[D]` as events.

    Given a context of several rows, the batch shape is theirs.
    """

    def __init__(self, model: AutoregressiveModel, params: Params, context: Any) -> None:
        """Keep the model, its parameters and its context, or None."""
        self._model, self._params = model, params
        self._context = None if context is None else jnp.asarray(context)

    @property
    def chain(self) -> tuple[AutoregressiveModel, Params, Any]:
        """Return the model, its parameters and its context."""
        return self._model, self._params, self._context

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Return [D]."""
        return (self._model.num_dims,)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Return the rows of the context."""
        if self._context is None:
            return ()
        is_real = isinstance(getattr(self._model, "conditioning", None), Covariates)
        return self._context.shape[:-1] if is_real else self._context.shape

    def log_prob(self, value: Array) -> Array:
        """Return nats of symbols `[..., D]`."""
        return self._model.log_prob(self._params, value, context=self._context)

    def _sample_n(self, key: Key, n: int) -> Array:
        context, batch_shape = self._context, self.batch_shape
        num_samples = n * math.prod(batch_shape)
        if context is not None and batch_shape:
            rows = jnp.broadcast_to(context, (n, *context.shape))
            context = rows.reshape(num_samples, *context.shape[len(batch_shape) :])
        x = ancestral.sample(key, self._model, self._params, num_samples, context=context).x
        return x.reshape(n, *batch_shape, x.shape[-1])
