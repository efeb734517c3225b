"""Readers: one module a format, all returning a `Dataset`; splits, batches, inspection."""

from .dataset import Column, Dataset, Items, Splits
from .opening import open_data
from .options import DataOptions

__all__ = ["Column", "DataOptions", "Dataset", "Items", "Splits", "open_data"]
