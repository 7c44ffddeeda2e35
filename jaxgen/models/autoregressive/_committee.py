"""Several models that agree on an order: each conditional is the mean of theirs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._log_mean_exp import log_mean_exp
from jaxgen.core._types import Array, Params


@dataclasses.dataclass(frozen=True)
class Committee(AutoregressiveModel):
    r"""The mean of the conditionals of K models that visit the coordinates in one order.

    .. math:: p(x) = \prod_i \frac1K \sum_k p_k(x_i \mid x_{<i})

    A mixture of the joints, as `order_ensemble_log_prob` takes it, soon rests on the member that
    happens to fit x best; here every coordinate is a fresh average of all. It needs one order,
    where a mixture is free to have many, so the two go together: a mixture over orders of
    committees. It is a model like any other: it samples, fills in and encodes.

    Parameters are a tuple, those of each member.

    Attributes:
      members: models over the same D coordinates and V symbols, of whatever kinds.
    """

    members: tuple[AutoregressiveModel, ...]

    def __post_init__(self) -> None:
        """Check that the members are over the same space."""
        spaces = {(member.num_dims, member.num_symbols) for member in self.members}
        if len(spaces) != 1:
            raise ValueError(
                "members must be one or more models of one num_dims and num_symbols, got "
                f"{sorted(spaces, key=str)}"
            )
        if self.num_symbols is None:
            raise ValueError("members must be over symbols, got num_symbols=None")

    @property
    def num_dims(self) -> int:  # type: ignore[override]
        """Return D."""
        return self.members[0].num_dims

    @property
    def num_symbols(self) -> int | None:  # type: ignore[override]
        """Return V."""
        return self.members[0].num_symbols

    def logits(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return the log-probabilities of every conditional, `[..., D, V]`."""
        pairs = zip(self.members, params, strict=True)
        return _mean([member.logits(p, x, context=context) for member, p in pairs])

    def init_cache(self, params: Params, batch_size: int, *, context: Any = None) -> Any:
        """Return the caches of the members."""
        pairs = zip(self.members, params, strict=True)
        return tuple(member.init_cache(p, batch_size, context=context) for member, p in pairs)

    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Feed x_{index−1} to every member; return the log-probabilities of x_index, `[B, V]`."""
        triples = zip(self.members, params, cache, strict=True)
        steps = [member.step(p, own, index, previous) for member, p, own in triples]
        logits = [
            member.conditional_or_default.at(index).logits(outputs)
            for member, (outputs, _) in zip(self.members, steps, strict=True)
        ]
        return _mean(logits), tuple(own for _, own in steps)


def _mean(logits: list[Array]) -> Array:
    return log_mean_exp(jnp.stack([jax.nn.log_softmax(one) for one in logits]), axis=0)
