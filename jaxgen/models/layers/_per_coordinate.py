"""Linear layers with weights of their own for each coordinate, where columns mean unlike things."""

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._types import Array


class PerCoordinate(nn.Module):
    """A linear map a coordinate, `[B, T, I] -> [B, T, O]` for the first T of D.

    Attributes:
      num_dims: D.
      num_inputs: I.
      features: O.
      use_bias: whether a bias is added; it starts at zero.
    """

    num_dims: int
    num_inputs: int
    features: int
    use_bias: bool = True

    def setup(self) -> None:
        """Create the parameters."""
        shape = (self.num_dims, self.num_inputs, self.features)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(batch_axis=0), shape)
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.num_dims, self.features))

    def __call__(self, h: Array) -> Array:
        """Map `[B, T, I]` to `[B, T, O]`."""
        length = h.shape[1]
        h = jnp.einsum("bti,tio->bto", h, self.kernel[:length])
        return h + self.bias[None, :length] if self.use_bias else h

    def at(self, h: Array, index: Array) -> Array:
        """Map `[B, I]` of one coordinate to `[B, O]`."""
        h = h @ self.kernel[index]
        return h + self.bias[index][None] if self.use_bias else h
