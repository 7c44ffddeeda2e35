"""Gradients of expectations: plain functions in, a gradient with its standard error out.

Every estimator has the signature `(key, params, f, …, num_samples) -> Estimate`, for
∇_θ E_{x ~ p_θ}[f(θ, x)]. `f(params, x)` is a scalar function of one sample; its own dependence on
the parameters is part of the gradient. Between them stand the plain functions that describe p_θ:

    score_function   sample_fn, log_prob_fn     any density that can be differentiated in θ
    pathwise         noise_fn, transform_fn     x a differentiable function of θ and noise
    implicit         sample_fn, cdf_fn          continuous x with a distribution function
    measure_valued   triples_fn                 Gaussian, Bernoulli, categorical, gamma rate
    relaxations      logits_fn                  one-hot x; biased, as each says

The result's `value` and `standard_error` are pytrees like `params`. What cannot be estimated
raises; it is never a quiet zero.
"""
