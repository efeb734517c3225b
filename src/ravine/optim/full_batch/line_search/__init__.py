"""Line searches: how far to go along a direction."""

from .common import Found, Line, LineSearch, Outcome, Point, Wolfe, noise
from .hager_zhang import hager_zhang
from .more_thuente import more_thuente

__all__ = [
    "Found",
    "Line",
    "LineSearch",
    "Outcome",
    "Point",
    "Wolfe",
    "hager_zhang",
    "more_thuente",
    "noise",
]
