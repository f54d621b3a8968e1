"""The versions, in a module that imports nothing."""

__version__ = "0.1.0"

FORMULA_VERSION = 2
"""Raised whenever a change of the estimator can change a figure; part of the cache key of an estimate."""
