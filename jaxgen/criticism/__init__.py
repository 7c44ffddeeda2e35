"""Fitted models against data: calibration, samples beside data, likely and unlikely."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
