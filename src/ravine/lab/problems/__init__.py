"""Functions to minimize whose minima are known: to test a method on, and to look at."""

from .problem import LeastSquares, Minimum

__all__ = ["LeastSquares", "Minimum"]
