"""Methods that find the axes: what no per-coordinate rule can do (C16).

    from ravine.optim import SOAP
    optimizer = SOAP(model.parameters(), lr=3e-3)

Each turns a matrix's gradient, by matrix products over all parameters of one shape at once, into a
direction that gradient descent follows. Gradients that are not finite are refused by the methods that keep
averages of GGᵀ, before anything is changed.
"""

from .muon import Muon
from .shampoo import Shampoo
from .soap import SOAP

__all__ = ["SOAP", "Muon", "Shampoo"]
