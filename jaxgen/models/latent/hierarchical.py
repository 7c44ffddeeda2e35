"""The variational autoencoder with several stochastic layers."""

from collections.abc import Callable

import distrax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count
from jaxgen.core.types import Array
from jaxgen.models.latent.priors import standard_normal
from jaxgen.models.layers.distributions import Chain
from jaxgen.models.layers.linear import Dense
from jaxgen.models.layers.observations import Observation, Symbols


class HierarchicalVAE(nn.Module):
    r"""Groups of latents, one above the other; z is the tuple (z_1, …, z_L) (Burda et al. 2015).

    .. math:: p(x, z) = p(z_L) \prod_{l<L} p(z_l \mid z_{l+1})\; p(x \mid z_1), \qquad
       q(z \mid x) = q(z_1 \mid x) \prod_{l<L} q(z_{l+1} \mid z_l)

    Data are generated from the top down, latents inferred from the bottom up. Every conditional of
    a group is a diagonal normal, whose mean and log-scale a perceptron with tanh units gives. The
    defaults are the paper's two layers.

    Attributes:
      num_dims: D, the coordinates of a data point.
      num_symbols: V, the number of values that a coordinate takes; None for real numbers.
      num_latents: the size of each group, that next to the data first.
      hidden_sizes: for each group the units of the hidden layers between it and what is below, in
        the order of inference; generation has the same in reverse.
      observation: the family of p(x | z_1), of `models/layers/observations.py`.
    """

    num_dims: int
    num_symbols: int | None
    num_latents: tuple[int, ...] = (100, 50)
    hidden_sizes: tuple[tuple[int, ...], ...] = ((200, 200), (100, 100))
    observation: Observation = Symbols()

    def setup(self) -> None:
        """Check the fields and create the layers."""
        check_count("num_dims", self.num_dims)
        check_count("the number of groups in num_latents", len(self.num_latents))
        for size in self.num_latents:
            check_count("num_latents", size)
        if len(self.hidden_sizes) != len(self.num_latents):
            raise ValueError(
                f"hidden_sizes must name the layers of each of the {len(self.num_latents)} groups, "
                f"got {self.hidden_sizes}"
            )
        groups = list(zip(self.num_latents, self.hidden_sizes, strict=True))
        self.upward = [NormalNetwork(hidden, size) for size, hidden in groups]
        self.downward = [
            NormalNetwork(hidden[::-1], below)
            for below, (_, hidden) in zip(self.num_latents[:-1], groups[1:], strict=True)
        ]
        self.decoder = [Dense(size) for size in reversed(self.hidden_sizes[0])]
        num_outputs = self.observation.num_outputs(self.num_symbols)
        self.outputs = Dense(self.num_dims * num_outputs)

    def __call__(self, x: Array) -> tuple:
        """Touch every parameter; what `init` calls."""
        z = tuple(jnp.zeros((*x.shape[:-1], size)) for size in self.num_latents)
        features = self.observation.features(x, self.num_symbols).reshape(*x.shape[:-1], -1)
        inferred = [net(h) for net, h in zip(self.upward, (features, *z[:-1]), strict=True)]
        generated = [net(h) for net, h in zip(self.downward, z[1:], strict=True)]
        return inferred, generated, self.likelihood(z)

    def prior(self) -> distrax.Distribution:
        """p(z): no batch shape, events of tuples (z_1, …, z_L)."""
        downward: list[Callable] = [*reversed(self.downward)]
        return Chain(standard_normal(self.num_latents[-1]), downward, reverse=True)

    def posterior(self, x: Array) -> distrax.Distribution:
        """q(z | x) for data `x`, `[B, D]`: batch shape [B], events of tuples (z_1, …, z_L)."""
        features = self.observation.features(x, self.num_symbols).reshape(*x.shape[:-1], -1)
        return Chain(self.upward[0](features), self.upward[1:])

    def likelihood(self, z: tuple) -> distrax.Distribution:
        """p(x | z) for groups `[..., B, Z_l]`, of which z_1 decides: batch shape [..., B]."""
        h = z[0]
        for layer in self.decoder:
            h = nn.tanh(layer(h))
        outputs = self.outputs(h).reshape(*z[0].shape[:-1], self.num_dims, -1)
        return self.observation(outputs, self.num_symbols)


class NormalNetwork(nn.Module):
    """A perceptron with tanh units that gives a diagonal normal, of scale one to begin with.

    Attributes:
      hidden_sizes: units of the hidden layers.
      size: of the normal's event.
    """

    hidden_sizes: tuple[int, ...]
    size: int

    @nn.compact
    def __call__(self, h: Array) -> distrax.Distribution:
        """`[..., H] ->` a distribution of batch shape [...] and event shape [size]."""
        for width in self.hidden_sizes:
            h = nn.tanh(Dense(width)(h))
        mean = Dense(self.size, name="mean")(h)
        log_scale = Dense(self.size, kernel_init=nn.initializers.zeros, name="log_scale")(h)
        return distrax.MultivariateNormalDiag(mean, jnp.exp(log_scale))
