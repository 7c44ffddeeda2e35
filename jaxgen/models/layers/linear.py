"""Linear layers whose gradients are fast for data with several leading axes.

The gradient of the weights sums over all leading axes. XLA takes more than twice as long for
two of them as for one on a CPU (see the benchmark `latent`), so here they are one inside.
"""

from flax import linen as nn

from jaxgen.core.types import Array


def matmul(x: Array, kernel: Array) -> Array:
    """The product `[..., I] [I, *O] -> [..., *O]`."""
    product = x.reshape(-1, x.shape[-1]) @ kernel.reshape(len(kernel), -1)
    return product.reshape(*x.shape[:-1], *kernel.shape[1:])


class Dense(nn.Dense):
    """Flax's linear layer, `[..., I] -> [..., O]`, with the same numbers and parameters."""

    def __call__(self, inputs: Array) -> Array:
        """See the class."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        return super().__call__(flat).reshape(*inputs.shape[:-1], self.features)
