"""What a model makes of the outputs of its decoder: the families of p(x | z).

Each is a small module. It says how many outputs it wants for a coordinate, how data enter an
encoder, and which distribution outputs stand for. Given z, the coordinates are independent.
"""

import distrax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.checks import check_count, check_float_array, check_integer_array, check_shape
from jaxgen.core.types import Array, Params
from jaxgen.models.layers.distributions import Bernoulli, Categorical, DiscretisedLogistic
from jaxgen.models.layers.ordinal import cumulative_logits, thermometer


class Observation(nn.Module):
    """What every family is; O outputs and F features a coordinate, V symbols (None: reals)."""

    def num_outputs(self, num_symbols: int | None) -> int:
        """O, checking V."""
        raise NotImplementedError

    def num_features(self, num_symbols: int | None) -> int:
        """F."""
        return 1

    def features(self, x: Array, num_symbols: int | None) -> Array:
        """What an encoder sees of data `[..., D]`: floats of order one, `[..., D, F]`."""
        raise NotImplementedError

    def output_bias(self, x: np.ndarray, num_symbols: int | None) -> np.ndarray:
        """Outputs that suit each coordinate of the data `[N, D]` by itself: `[D, O]`."""
        raise NotImplementedError

    def __call__(self, outputs: Array, num_symbols: int | None) -> distrax.Distribution:
        """The distribution, of event shape [D], for outputs `[..., D, O]`."""
        raise NotImplementedError


class Symbols(Observation):
    """Bits (V = 2) as Bernoulli variables, more levels as categorical over ordered symbols."""

    def num_outputs(self, num_symbols: int | None) -> int:
        """See `Observation`."""
        num_symbols = _checked(num_symbols)
        return 1 if num_symbols == 2 else num_symbols

    def num_features(self, num_symbols: int | None) -> int:
        """V − 1; see `Observation`."""
        return _checked(num_symbols) - 1

    def features(self, x: Array, num_symbols: int | None) -> Array:
        """The thermometer code of symbols; see `Observation`."""
        check_integer_array("x", x)
        return thermometer(x, _checked(num_symbols))

    def output_bias(self, x: np.ndarray, num_symbols: int | None) -> np.ndarray:
        """From the frequencies of the symbols, none taken below 0.001; see `Observation`."""
        num_symbols = _checked(num_symbols)
        counts = (np.asarray(x)[..., None] == np.arange(num_symbols)).mean(0)
        log_frequencies = np.log(np.clip(counts, 1e-3, 1 - 1e-3))
        # Outputs are increments between neighbouring logits; a bit's one output is the only one.
        increments = np.diff(log_frequencies, axis=-1, prepend=0.0)
        return increments[:, 1:] if num_symbols == 2 else increments

    def __call__(self, outputs: Array, num_symbols: int | None) -> distrax.Distribution:
        """See `Observation`."""
        if num_symbols == 2:
            return distrax.Independent(Bernoulli(logits=outputs[..., 0]), 1)
        return distrax.Independent(Categorical(logits=cumulative_logits(outputs)), 1)


class LogisticMixture(Observation):
    """Many ordered levels, such as 256 greys, by a mixture of discretised logistics.

    Attributes:
      num_components: M; one is the plain discretised logistic.
    """

    num_components: int = 1

    def num_outputs(self, num_symbols: int | None) -> int:
        """See `Observation`: a weight, a location and a log-scale for each component."""
        _checked(num_symbols)
        check_count("num_components", self.num_components)
        return 3 * self.num_components

    def features(self, x: Array, num_symbols: int | None) -> Array:
        """Levels scaled to [−1, 1]; see `Observation`."""
        check_integer_array("x", x)
        return (2.0 * x / (_checked(num_symbols) - 1) - 1.0)[..., None]

    def output_bias(self, x: np.ndarray, num_symbols: int | None) -> np.ndarray:
        """From means and deviations, the components spread over both; see `Observation`."""
        x = np.asarray(self.features(jnp.asarray(x), num_symbols))[..., 0]
        mean, deviation = x.mean(0)[:, None], np.maximum(x.std(0), 0.02)[:, None]
        spread = (2.0 * np.arange(self.num_components) + 1.0) / self.num_components - 1.0
        locations = mean + deviation * spread
        scale = deviation / (self.num_components * 1.8)  # a logistic's deviation is 1.8 scales
        log_scales = np.broadcast_to(np.log(scale), locations.shape)
        return np.concatenate([np.zeros_like(locations), locations, log_scales], -1)

    def __call__(self, outputs: Array, num_symbols: int | None) -> distrax.Distribution:
        """See `Observation`; outputs place the components on the scale [−1, 1] of the levels."""
        num_symbols = _checked(num_symbols)
        logits, locations, log_scales = jnp.split(outputs, 3, axis=-1)
        half = (num_symbols - 1) / 2
        # Scales from a thousandth of the range up: no level can take all the probability there is.
        log_scales = jnp.maximum(log_scales, -7.0) + np.log(half).astype(np.float32)
        return distrax.Independent(
            DiscretisedLogistic(logits, half * (locations + 1.0), log_scales, num_symbols), 1
        )


class SharedNormal(Observation):
    """Real data with normal noise of one learned scale for all coordinates (Rybkin et al. 2021).

    A scale for each coordinate and each z would let the density grow without bound.
    """

    def num_outputs(self, num_symbols: int | None) -> int:
        """See `Observation`."""
        if num_symbols is not None:
            raise ValueError(f"num_symbols must be None for real data, got {num_symbols}")
        return 1

    def features(self, x: Array, num_symbols: int | None) -> Array:
        """The data themselves; see `Observation`."""
        check_float_array("x", x)
        return x[..., None]

    def output_bias(self, x: np.ndarray, num_symbols: int | None) -> np.ndarray:
        """The means; see `Observation`."""
        return np.asarray(x).mean(0)[:, None]

    @nn.compact
    def __call__(self, outputs: Array, num_symbols: int | None) -> distrax.Distribution:
        """See `Observation`."""
        scale = jnp.exp(self.param("log_scale", nn.initializers.zeros, ()))
        mean = outputs[..., 0]
        return distrax.MultivariateNormalDiag(mean, jnp.full_like(mean, 1.0) * scale)


def set_output_bias(params: Params, module: nn.Module, x: np.ndarray) -> Params:
    """Begin with what the data are without z: the outputs' bias from their frequencies or means.

    Args:
      params: what `module.init` returned.
      module: a model with fields `observation` and `num_symbols` and a last layer `outputs`.
      x: training data, `[N, D]`.

    Returns:
      Parameters with that one bias changed.
    """
    observation: Observation = module.observation
    bias = observation.output_bias(x, module.num_symbols).reshape(-1)
    outputs = params["params"]["outputs"]
    check_shape("x", x, (None, outputs["bias"].size // observation.num_outputs(module.num_symbols)))
    outputs = {**outputs, "bias": jnp.asarray(bias, outputs["bias"].dtype)}
    return {**params, "params": {**params["params"], "outputs": outputs}}


def _checked(num_symbols: int | None) -> int:
    if num_symbols is None:
        raise ValueError("num_symbols must be the number of levels; None is for SharedNormal")
    check_count("num_symbols", num_symbols, minimum=2)
    return num_symbols
