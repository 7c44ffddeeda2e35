"""Generative modelling by likelihood, in JAX, as pure functions.

Everything public is listed here and in the packages, and loaded when it is first used.
"""

import lazy_loader as lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
