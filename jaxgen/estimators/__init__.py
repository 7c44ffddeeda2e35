"""Samples in, estimates with standard errors out.

Gradients of expectations, ∇_θ E_{x ~ p_θ}[f(θ, x)], are estimated by functions of one signature,
`(key, f, …, params, num_samples) -> Estimate`. `f(params, x)` is a scalar function of one sample;
its own dependence on the parameters is part of the gradient. Between them stand the plain functions
that describe p_θ:

================  ======================  =================================================
score_function    sample_fn, log_prob_fn  any density differentiable in θ
pathwise          noise_fn, transform_fn  x a differentiable function of θ and noise
implicit          sample_fn, cdf_fn       continuous x with a distribution function
measure_valued    triples_fn              Gaussian, Bernoulli, categorical, gamma
straight_through  logits_fn               one-hot x; biased, as it says
gumbel_softmax    logits_fn               one-hot x; biased, as it says
================  ======================  =================================================

The result's `value` and `standard_error` are pytrees like `params`. What cannot be estimated
raises; it is never a quiet zero.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
