"""Finished runs together (T15): all of them, those that are best together, or their mean weights."""

from .assembling import assemble, assemble_selected, assemble_soup

__all__ = ["assemble", "assemble_selected", "assemble_soup"]
