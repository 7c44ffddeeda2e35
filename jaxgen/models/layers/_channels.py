"""The conditionals of a pixel's channels, given what a network says of the pixel as a whole."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_shape
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models.conditionals._logistic_levels import LogisticMixture


class ChannelHead(nn.Module):
    r"""Let each channel of a pixel depend on those before it, such as green on red.

    The network gives Q outputs for a pixel, from earlier pixels alone. Logistic mixtures are
    coupled as in PixelCNN++ (Salimans et al. 2017): all channels of a pixel share the component,

    .. math:: p(x_1, \dots, x_C) = \sum_k \pi_k \prod_c p_k(x_c \mid x_{<c}), \qquad
       \mu_{ck} = m_{ck} + \sum_{c' < c} \tanh(a_{cc'k})\, x_{c'}

    so the conditional of a channel is a mixture too, its weights those of the components after the
    channels before it are seen. For all other conditionals the outputs of a channel are moved
    linearly by the features of the channels before it.

    Attributes:
      conditional: of every channel.
      num_channels: C; with one channel the outputs are the network's own.
    """

    conditional: Conditional
    num_channels: int

    @property
    def num_pixel_outputs(self) -> int:
        """Return Q."""
        num_channels = self.num_channels
        if isinstance(self.conditional, LogisticMixture):
            num_pairs = num_channels * (num_channels - 1) // 2
            return self.conditional.num_components * (1 + 2 * num_channels + num_pairs)
        return num_channels * self.conditional.num_outputs

    @nn.compact
    def __call__(self, outputs: Array, x: Array) -> Array:
        """Return outputs of each channel, `[..., C, P]`.

        Args:
          outputs: of pixels, `[..., Q]`.
          x: symbols, int32 `[..., C]`; channel c reads those before it alone. What lies outside
            [0, V) counts as 0.
        """
        check_shape("outputs", outputs, (*x.shape[:-1], self.num_pixel_outputs))
        if self.num_channels == 1:
            return outputs[..., None, :]
        x = jnp.maximum(x, 0)
        features = self.conditional.features(x)
        if isinstance(self.conditional, LogisticMixture):
            return _coupled(self.conditional, outputs, x, features[..., 0])
        outputs = outputs.reshape(*x.shape, self.conditional.num_outputs)
        moved = [outputs[..., 0, :]]
        for c in range(1, self.num_channels):
            before = jax.lax.collapse(features[..., :c, :], features.ndim - 2)
            shift = nn.Dense(outputs.shape[-1], use_bias=False, name=f"channel_{c}")
            moved.append(outputs[..., c, :] + shift(before))
        return jnp.stack(moved, axis=-2)


def _coupled(conditional: LogisticMixture, outputs: Array, x: Array, levels: Array) -> Array:
    """Return mixtures `[..., C, 3 K]` from outputs `[..., Q]` and levels scaled to [−1, 1]."""
    num_channels = x.shape[-1]
    k = conditional.num_components
    outputs = outputs.reshape(*outputs.shape[:-1], outputs.shape[-1] // k, k)
    weights = outputs[..., 0, :]
    means = outputs[..., 1 : 1 + num_channels, :]
    log_scales = outputs[..., 1 + num_channels : 1 + 2 * num_channels, :]
    couplings = jnp.tanh(outputs[..., 1 + 2 * num_channels :, :])
    mixtures, pair = [], 0
    for c in range(num_channels):
        mean = means[..., c, :]
        for before in range(c):
            mean += couplings[..., pair, :] * levels[..., before, None]
            pair += 1
        mixtures.append(jnp.concatenate([weights, mean, log_scales[..., c, :]], axis=-1))
        if c < num_channels - 1:
            weights = conditional.joint_log_probs(mixtures[-1], x[..., c])
    return jnp.stack(mixtures, axis=-2)
