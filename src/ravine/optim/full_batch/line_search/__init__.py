"""Line searches: how far to go along a direction."""

from .common import ROUNDINGS, Found, Line, LineSearch, Outcome, Point, Wolfe
from .hager_zhang import hager_zhang
from .more_thuente import more_thuente

__all__ = [
    "ROUNDINGS",
    "Found",
    "Line",
    "LineSearch",
    "Outcome",
    "Point",
    "Wolfe",
    "hager_zhang",
    "more_thuente",
]
