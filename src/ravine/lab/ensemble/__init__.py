"""Ensembles (T15-T17): finished runs together, or members trained for it."""

from .assembling import assemble, assemble_selected, assemble_soup
from .training import train_ensemble

__all__ = ["assemble", "assemble_selected", "assemble_soup", "train_ensemble"]
