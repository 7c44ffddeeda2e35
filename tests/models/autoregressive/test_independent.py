import autoregressive_conformance as conformance
import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.autoregressive._independent import Independent, fit_independent

X = np.array([[0, 1], [0, 2], [1, 2]], np.int32)
MODEL = Independent(2, 3)


def test_fit_is_the_smoothed_count():
    params = fit_independent(X, 3, pseudo_count=0.5)
    logits = MODEL.logits(params, X[:1])[0]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chex.assert_trees_all_close(
        p,
        np.array([[2.5 / 4.5, 1.5 / 4.5, 0.5 / 4.5], [0.5 / 4.5, 1.5 / 4.5, 2.5 / 4.5]]),
        rtol=1e-6,
    )


def test_conforms_where_independence_allows():
    measured = conformance.measure(MODEL, fit_independent(X, 3))
    for check in [*conformance.ALL, conformance.check_code, conformance.check_portable_code]:
        if check is not conformance.check_causality:  # which wants every earlier symbol seen
            check(measured)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"x must hold symbols in \[0, 2\), got \[0, 2\]"):
        fit_independent(X, 2)
    with pytest.raises(ValueError, match="pseudo_count must be in"):
        fit_independent(X, 3, pseudo_count=0.0)
    with pytest.raises(TypeError, match="x must hold integers"):
        MODEL.logits(fit_independent(X, 3), jnp.zeros((1, 2)))
