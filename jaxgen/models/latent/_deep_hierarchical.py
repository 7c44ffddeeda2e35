"""The deep hierarchical variational autoencoder: groups of latents over several resolutions."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_count, check_in_range, check_key, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._contracts import EvidenceTerms
from jaxgen.core._types import Array, Key, Params
from jaxgen.models._context import Conditioning, Labels, context_features
from jaxgen.models.latent._deep_layers import Block, Enter, PixelOutputs, Scale, Up
from jaxgen.models.latent._module import LinenLatentVariableModel
from jaxgen.models.layers._convolutions import Convolutions


class DeepHierarchicalVAE(LinenLatentVariableModel):
    r"""Groups of latents from coarse to fine, inferred from the top down (Sønderby et al. 2016).

    .. math:: p(x, z) = p(x \mid z) \prod_l p(z_l \mid z_{<l}), \qquad
       q(z \mid x) = \prod_l q(z_l \mid z_{<l}, x)

    z is the tuple (z_1, …, z_L), the coarsest group first. One pass from the top gives both
    products: feature maps go from scale to scale, each group adds what was drawn for it, and q also
    sees the features of x at its scale, which a pass from below made (Child 2021). What q says is
    by how much it differs from p (Vahdat & Kautz 2020), in units of p:

    .. math:: p(z_l \mid z_{<l}) = \mathcal N(\mu, \sigma^2), \qquad
       q(z_l \mid z_{<l}, x) = \mathcal N(\mu + \sigma \delta, \sigma^2 e^{2s}), \qquad
       \mathrm{KL} = \tfrac12 (\delta^2 + e^{2s} - 1) - s

    The last layer of every residual network starts at zero, and what it adds to the feature maps is
    divided by the root of the number of such networks; all log-scales are bounded. So training
    starts at q = p with features of order one, however deep. `elbo` and the multi-sample bounds get
    their terms from one pass, by `evidence_terms`; prior, posterior and likelihood take three.

    Attributes:
      num_dims: D, the coordinates of an image, H·W·C in the order H, W, C.
      num_symbols: V, the number of values that a coordinate takes; None for real numbers.
      image_shape: H and W.
      scales: the finest first.
      conditional: the family of p(x_i | z); None takes ordered symbols, or normals for reals.
      conditioning: `Labels` or `Covariates` that all three distributions see, p(z) among them.
      dtype: of feature maps, None for that of the parameters; parameters and what is said of
        latents and data stay in float32.
      remat: whether training keeps of each residual network its input alone, and computes the rest
        again. What memory that leaves free is the compiler's to say (`jaxgen.training.plan`).
    """

    num_dims: int
    num_symbols: int | None
    image_shape: tuple[int, int]
    scales: tuple[Scale, ...]
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = False

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width of each scale, the finest first."""
        sizes, (height, width) = [], self.image_shape
        for scale in self.scales:
            if height % scale.factor or width % scale.factor:
                raise ValueError(f"factor must divide the size {height, width}, got {scale}")
            height, width = height // scale.factor, width // scale.factor
            sizes.append((height, width))
        return sizes

    @property
    def group_shapes(self) -> list[tuple[int, int, int]]:
        """Return height, width and latents a position of each group, the coarsest first."""
        pairs = zip(self.scales[::-1], self.sizes[::-1], strict=True)
        return [(*size, s.num_latents) for s, size in pairs for _ in range(s.num_groups)]

    def setup(self) -> None:
        """Check the fields and create the layers."""
        super().setup()
        check_sizes("image_shape", self.image_shape)
        check_count("the number of scales", len(self.scales))
        num_pixels = math.prod(self.image_shape)
        if self.num_dims % num_pixels:
            raise ValueError(f"image_shape {self.image_shape} must divide num_dims={self.num_dims}")
        share = (2 * len(self.group_shapes)) ** -0.5
        how = share, self.dtype, self.remat
        self.up = [Up(scale, *how) for scale in self.scales]
        factors = (*(scale.factor for scale in self.scales[1:]), 1)
        enter = zip(self.sizes, self.scales, factors, strict=True)
        self.enter = [Enter(size, s.num_channels, factor, self.dtype) for size, s, factor in enter][
            ::-1
        ]
        self.blocks = [Block(s, *how) for s in self.scales[::-1] for _ in range(s.num_groups)]
        self.outputs = PixelOutputs(
            self.scales[0].factor, self.num_outputs // num_pixels, self.dtype
        )

    def __call__(self, x: Array, context: Any = None) -> tuple[Array, distrax.Distribution]:
        """Create every parameter; what `init` calls."""
        features = self._features(x, context)
        z, log_q = self._draw(jax.random.key(0), x.shape[:-1], features, context, None)
        return log_q, self._likelihood(z, context)

    @nn.nowrap
    def prior(self, params: Params, *, context: Any = None) -> "TopDown":
        """Return p(z), with the batch shape of the context: () for none, or for one for all."""
        shape = _context_shape(self.conditioning, context)
        context_features(self.conditioning, context, shape)
        return TopDown(self, params, None, context, shape)

    @nn.nowrap
    def posterior(self, params: Params, x: Array, *, context: Any = None) -> "TopDown":
        """Return q(z | x) for data `[B, D]`, with batch shape [B]."""
        x = jnp.asarray(x)
        features: Any = self.apply(params, x, context, method="_features")
        return TopDown(self, params, features, context, x.shape[:-1])

    @nn.nowrap
    def evidence_terms(
        self, key: Key, params: Params, x: Array, *, num_samples: int, context: Any = None
    ) -> EvidenceTerms:
        """Draw K posterior samples and return all terms of the bounds on log p(x), from one pass.

        They are those of the three distributions, at what `posterior(…).sample(…)` draws.

        Args:
          key: a typed key.
          params: parameters of the model.
          x: data, `[B, D]`.
          num_samples: K.
          context: what the model is conditioned on, for each of B or for all.
        """
        check_key(key)
        check_count("num_samples", num_samples)
        arguments = key, jnp.asarray(x), num_samples, context
        terms: Any = self.apply(params, *arguments, method="_evidence_terms")
        return terms

    def _features(self, x: Array, context: Any) -> list[Array]:
        """Return what each group's posterior sees of the data, `[*batch, h, w, hidden]`."""
        h = Convolutions(self.image_shape, ()).as_maps(self._data_features(x))
        context = self._context_features(context, x.shape[:-1])
        maps = []
        for up in self.up:
            h = up(h, context)
            maps.append(h)
        pairs = zip(maps[::-1], self.scales[::-1], strict=True)
        seen = [h for h, scale in pairs for _ in range(scale.num_groups)]
        return [block.see(h) for block, h in zip(self.blocks, seen, strict=True)]

    def _descend(
        self, choose: "ChooseFn", shape: tuple[int, ...], features: list[Array] | None, context: Any
    ) -> tuple[Array, list["Group"]]:
        """Go from the top to the last feature maps, with what is chosen for each group."""
        h: Any = None
        groups, blocks = list[Group](), iter(self.blocks)
        context = self._context_features(context, shape)
        for enter, scale in zip(self.enter, self.scales[::-1], strict=True):
            h = enter(h, shape, context)
            for block in itertools.islice(blocks, scale.num_groups):
                mean, log_scale, h = block.prior(h)
                change = jnp.zeros_like(mean), jnp.zeros_like(mean)
                if features is not None:
                    change = block.change(h, features[len(groups)])
                groups.append(choose(len(groups), Conditionals(mean, log_scale, *change)))
                h = block.take(h, groups[-1].z)
        return h, groups

    def _evidence_terms(self, key: Key, x: Array, num_samples: int, context: Any) -> EvidenceTerms:
        shape, features = (num_samples, *x.shape[:-1]), self._features(x, context)
        h, groups = self._descend(drawn(key), shape, features, context)
        log_likelihood = self._distribution(self.outputs(h)).log_prob(x[None])
        terms = zip(*((group.log_q - group.log_p, group.kl) for group in groups), strict=True)
        return EvidenceTerms(log_likelihood, *map(jnp.stack, terms))

    def _likelihood(self, z: tuple, context: Any) -> distrax.Distribution:
        h, _ = self._descend(self._given(z), z[0].shape[:-1], None, context)
        return self._distribution(self.outputs(h))

    def _draw(
        self, key: Key, shape: tuple[int, ...], features: Any, context: Any, num_random: int | None
    ) -> tuple[tuple, Array]:
        _, groups = self._descend(drawn(key, num_random), shape, features, context)
        z = tuple(jax.lax.collapse(group.z, len(shape)) for group in groups)
        return z, functools.reduce(jnp.add, [group.log_q for group in groups])

    def _group_log_probs(self, z: tuple, features: Any, context: Any) -> tuple:
        _, groups = self._descend(self._given(z), z[0].shape[:-1], features, context)
        return tuple(group.log_q for group in groups)

    def _group_conditional(
        self, group: int, z: tuple, features: Any, context: Any
    ) -> tuple[Array, Array]:
        given, found = self._given(z), list[Conditionals]()

        def choose(index: int, of_group: Conditionals) -> Group:
            found.append(of_group)
            return given(index, of_group)

        shape = z[0].shape[:-1]
        self._descend(choose, shape, features, context)  # what is below is not compiled
        mean, log_scale, shift, log_ratio = found[group]
        loc, scale = mean + jnp.exp(log_scale) * shift, jnp.exp(log_scale + log_ratio)
        return jax.lax.collapse(loc, len(shape)), jax.lax.collapse(scale, len(shape))

    def _given(self, z: tuple) -> "ChooseFn":
        shapes = self.group_shapes
        sizes = [math.prod(shape) for shape in shapes]
        if not isinstance(z, tuple) or [group.shape[-1] for group in z] != sizes:
            got = jax.tree.map(jnp.shape, z)
            raise ValueError(f"z must be a tuple of groups [..., Z], Z in {sizes}, got {got}")

        def choose(index: int, of_group: Conditionals) -> Group:
            group = z[index].reshape(*z[index].shape[:-1], *shapes[index])
            standard = (group - of_group.mean) * jnp.exp(-of_group.log_scale)
            noise = (standard - of_group.shift) * jnp.exp(-of_group.log_ratio)
            return of_group.at(group, standard, noise)

        return choose


class Conditionals(NamedTuple):
    """What p and q say of a group, given those above: `[..., h, w, Z]` each.

    Attributes:
      mean: μ of p.
      log_scale: log σ of p.
      shift: δ, by how many σ the mean of q differs.
      log_ratio: s, the logarithm of q's scale over that of p.
    """

    mean: Array
    log_scale: Array
    shift: Array
    log_ratio: Array

    def at(self, z: Array, standard: Array, noise: Array) -> "Group":
        """Return the group at z, which is `standard` in units of p and `noise` in those of q."""
        log_p = _log_normal(standard, self.log_scale)
        log_q = _log_normal(noise, self.log_scale + self.log_ratio)
        kl = 0.5 * (self.shift**2 + jnp.expm1(2 * self.log_ratio)) - self.log_ratio
        return Group(z, log_p, log_q, jnp.sum(kl, axis=(-3, -2, -1)))


class Group(NamedTuple):
    """A group as it was drawn or given, `[..., h, w, Z]`, with nats `[...]`.

    Attributes:
      z: the latents.
      log_p: their log-density given those above, under the prior.
      log_q: the same under what they are drawn from, which may be the prior itself.
      kl: KL(q ‖ p) of the group, given those above.
    """

    z: Array
    log_p: Array
    log_q: Array
    kl: Array


ChooseFn = Callable[[int, Conditionals], Group]
"""`choose(index, conditionals) -> group`: draws a group, or takes a given one."""


def drawn(key: Key, num_random: int | None = None) -> ChooseFn:
    """Draw each group from q; but from `num_random` on, put it to the mean of p."""

    def choose(index: int, of_group: Conditionals) -> Group:
        noise = jax.random.normal(jax.random.fold_in(key, index), of_group.mean.shape)
        standard = of_group.shift + jnp.exp(of_group.log_ratio) * noise
        if num_random is not None and index >= num_random:
            standard = jnp.zeros_like(noise)
        return of_group.at(of_group.mean + jnp.exp(of_group.log_scale) * standard, standard, noise)

    return choose


class TopDown(distrax.Distribution):
    """p(z), or q(z | x) where there are features of x, over tuples of groups `[..., Z_l]`."""

    def __init__(
        self,
        model: DeepHierarchicalVAE,
        params: Params,
        features: list[Array] | None,
        context: Any,
        batch_shape: tuple[int, ...],
    ) -> None:
        """Keep what a pass from the top needs."""
        self._model, self._params, self._context = model, params, context
        self._features, self._batch_shape = features, batch_shape

    @property
    def event_shape(self) -> Any:
        """Return the event shape of each group, a tuple."""
        return tuple((math.prod(shape),) for shape in self._model.group_shapes)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Return that of the data, or of the context."""
        return self._batch_shape

    @property
    def draw_order(self) -> tuple[int, ...]:
        """Return which groups are drawn first, second, and so on: the coarsest first."""
        return tuple(range(len(self._model.group_shapes)))

    def conditional(self, group: int, value: tuple) -> distrax.Distribution:
        """Return the distribution of a group, given an event's groups above; it sees no others."""
        arguments = group, value, self._features, self._context
        found: Any = self._model.apply(self._params, *arguments, method="_group_conditional")
        return distrax.MultivariateNormalDiag(*found)

    def group_log_probs(self, value: tuple) -> tuple:
        """Return nats of each group given those above, a tuple."""
        arguments = value, self._features, self._context
        terms: Any = self._model.apply(self._params, *arguments, method="_group_log_probs")
        return terms

    def log_prob(self, value: tuple) -> Array:
        """Return nats of a tuple of groups."""
        return functools.reduce(jnp.add, self.group_log_probs(value))

    def sample_top(self, key: Key, num_samples: int, num_groups: int) -> tuple:
        """Draw only the coarsest groups, and put all others to the prior's mean given those above.

        Args:
          key: a typed key.
          num_samples: N.
          num_groups: how many groups are drawn, from 0 to L.

        Returns:
          z, `[N, *batch, Z_l]` each.
        """
        check_key(key)
        check_count("num_samples", num_samples)
        check_in_range("num_groups", num_groups, 0, len(self._model.group_shapes))
        return self._draw(key, num_samples, num_groups)[0]

    def _sample_n(self, key: Key, n: int) -> tuple:
        return self._draw(key, n, None)[0]

    def _sample_n_and_log_prob(self, key: Key, n: int) -> tuple[tuple, Array]:
        return self._draw(key, n, None)

    def _draw(self, key: Key, n: int, num_random: int | None) -> tuple[tuple, Array]:
        arguments = key, (n, *self._batch_shape), self._features, self._context, num_random
        drawn: Any = self._model.apply(self._params, *arguments, method="_draw")
        return drawn


def _log_normal(noise: Array, log_scale: Array) -> Array:
    """Return the log-density of a draw whose standardized form is `noise`, over the last axes."""
    terms = -0.5 * noise**2 - log_scale - 0.5 * math.log(2 * math.pi)
    return jnp.sum(terms, axis=(-3, -2, -1))


def _context_shape(conditioning: Conditioning | None, context: Any) -> tuple[int, ...]:
    if conditioning is None or context is None:
        return ()
    return jnp.shape(context) if isinstance(conditioning, Labels) else jnp.shape(context)[:-1]
