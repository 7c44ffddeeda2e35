"""Distrax distributions whose log-probabilities are the library's fast, exact terms."""

import distrax

from jaxgen.core.likelihood_terms import bernoulli_log_prob, categorical_log_prob
from jaxgen.core.types import Array


class Bernoulli(distrax.Bernoulli):
    """Bits; distrax's, with a fused log-probability (see the benchmark `likelihood_terms`)."""

    def log_prob(self, value: Array) -> Array:
        """Nats, elementwise; see `jaxgen.core.likelihood_terms.bernoulli_log_prob`."""
        return bernoulli_log_prob(self.logits, value)


class Categorical(distrax.Categorical):
    """Symbols; distrax's, without the one-hot code and with NaN for an impossible symbol."""

    def log_prob(self, value: Array) -> Array:
        """Nats, elementwise; see `jaxgen.core.likelihood_terms.categorical_log_prob`."""
        return categorical_log_prob(self.logits, value)
