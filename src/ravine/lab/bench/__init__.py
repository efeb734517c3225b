"""Optimizers timed beside their peers: each step of the same rule, on the same tensors, in one run."""

from .configurations import Configuration, chosen, configurations
from .measure import Result, device_named, measure, using_threads
from .problems import SETS, ProblemSet
from .table import Table

__all__ = [
    "SETS",
    "Configuration",
    "ProblemSet",
    "Result",
    "Table",
    "chosen",
    "configurations",
    "device_named",
    "measure",
    "using_threads",
]
