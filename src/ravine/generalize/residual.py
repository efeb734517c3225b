"""Where the residual branches of anyone's network end, as its trace tells."""

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..errors import ModelError
from .noise import DropConnect, Dropout, FeatureDropout, SampledBatchNorm
from .tracing import MAKERS, Tracer, is_drop_path, trace

# torch's layers whose code does not trace, with the modules before the dropouts that end their branches.
_KNOWN: dict[type, tuple[str, ...]] = {
    nn.TransformerEncoderLayer: ("self_attn", "linear2"),
    nn.TransformerDecoderLayer: ("self_attn", "multihead_attn", "linear2"),
}

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, SampledBatchNorm)
_PROJECTIONS = (nn.Linear, _ConvNd, DropConnect)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, Dropout, FeatureDropout)
_POOLS = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
_UPSAMPLING = (nn.Upsample, _ConvTransposeNd, nn.PixelShuffle)
# A factor that is not negative goes through these modules: f(c·x) = c·f(x).
_SCALING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.LeakyReLU, *_DROPOUTS)
# What a shortcut may be made of.
_PLAIN = (nn.Identity, nn.Flatten, nn.Unflatten, nn.ZeroPad2d, *_DROPOUTS, *_POOLS, *_NORMS, *_UPSAMPLING)

# The same of functions and methods.
_PRODUCTS, _QUOTIENTS = {"mul", "multiply"}, {"div", "divide", "true_divide", "truediv"}
_ELEMENTWISE = {
    *("neg", "negative", "contiguous", "clone", "to", "type_as", "float", "half", "bfloat16", "double"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d"),
}
_RECTIFIERS = {"relu", "leaky_relu"}
_MOVES = {
    *("reshape", "view", "permute", "transpose", "swapaxes", "movedim", "flatten", "unflatten", "squeeze"),
    *("unsqueeze", "expand", "roll", "getitem"),
}
_UPSAMPLERS = {"interpolate", "upsample", "pixel_shuffle", *(f"conv_transpose{axes}d" for axes in (1, 2, 3))}
_PLAIN_FUNCTIONS = {
    *("pad", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
}
_PROJECTING = {"linear", "conv1d", "conv2d", "conv3d"}
_LAYER_FUNCTIONS = {
    *_PROJECTING,
    *(f"conv_transpose{axes}d" for axes in (1, 2, 3)),
    *("matmul", "mm", "bmm", "einsum", "scaled_dot_product_attention"),
}
# What the answers of these are made of is a shape, not a value.
_SHAPES = {
    *(maker.__name__ for maker in MAKERS),
    *("size", "dim", "numel", "len", "new_empty", "new_zeros", "new_ones", "new_full"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
}
_VALUED_ATTRIBUTES = {"T", "mT", "H", "mH", "data", "real", "imag"}
_DRAWS = {"bernoulli", "rand", "drop_path", "stochastic_depth"}
_IN_PLACE = {"iadd": "add", "imul": "mul", "itruediv": "truediv", "isub": "sub", "imatmul": "matmul"}


class BranchEnd(NamedTuple):
    """The module whose output a noise on a residual branch multiplies.

    Attributes:
        name: of the module.
        by_item: whether axis 0 of its output is known to hold the items, so that each may have a draw of its
            own; else one draw goes to all of them.
    """

    name: str
    by_item: bool


def branch_ends(model: nn.Module) -> list[BranchEnd]:
    """Where each residual branch ends, from the first block to the last.

    A sum is a residual connection if one of its terms is the shortcut: the value x that other terms, the
    branches, are made of too, or x after at most one convolution or linear layer, normalizations, pooling,
    padding, moves of axes and constants, none of it an activation. No two terms may be equally short.

    - A branch has modules or layers in it, and more layers one after another than its shortcut: in
      scale(x)·y(x) + shift(x) nothing is deeper. Several beside the value itself
      (x + attention(x) + perceptron(x)) are a branch each; several beside a projection are the paths of an
      Inception block, and none is a branch.
    - A branch with residual connections inside is none itself: its blocks are, as in a U-Net's long skips.
    - A branch that upsamples what its shortcut does not comes back from the bottom of a U-Net, and is none.
    - A projection beside deeper layers, with no layer before and none after, is a linear model beside a deep
      one: no branch. With layers before and none after it may be either, and is refused.

    Noise may be put on a module's output if that multiplies the value of the whole branch: the module gives
    that value, and is no dropout, or the value is homogeneous of degree one in the module's output. That is
    so where there is nothing on the way but products with, and quotients by, what does not depend on it,
    signs, dropout, ReLU, and moves of axes (f(c·x) = c·f(x) for c ≥ 0); and nothing else reads what is on the
    way. A branch where no module is of that kind, such as y·sigmoid(gate(y)) outside of any module, is
    refused.

    The network is traced in training mode, arguments with a default at their default, on a copy.

    Raises:
        ModelError: the network cannot be traced symbolically; a branch has no module that may be hooked, or
            has stochastic depth of the network's own; a sum may or may not be a residual connection.
    """
    ends = list(_Branches(trace(model), dict(model.named_modules())).ends())
    # torch's attention and recurrent layers of that layout say where the items are in all of the network.
    items_first = all(getattr(module, "batch_first", True) for module in model.modules())
    return [BranchEnd(end.name, end.by_item and items_first) for end in ends]


class _Branches:
    """The residual branches of a traced network. Sets of nodes are whole numbers with a bit for each node."""

    def __init__(self, traced: Tracer, modules: dict[str, nn.Module]) -> None:
        self.nodes = list(traced.graph.nodes)
        self.modules = modules
        self.givers = traced.givers
        self.calls = Counter(traced.called)
        self.bits = {node: 1 << number for number, node in enumerate(self.nodes)}
        # Each with itself: what a node's value is made of, and what is made of it.
        self.above, self.below = dict(self.bits), dict(self.bits)
        for node in self.nodes:
            for source in values_of(node):
                self.above[node] |= self.above[source]
        for node in reversed(self.nodes):
            for source in values_of(node):
                self.below[source] |= self.below[node]
        self.inputs = self._set(lambda node: node.op == "placeholder")
        self.layers = self._set(self._is_layer)
        self.named = self._set(lambda node: not isinstance(self._module(node), nn.Identity | None))
        self.upsampling = self._set(
            lambda node: isinstance(self._module(node), _UPSAMPLING) or _function(node) in _UPSAMPLERS
        )
        self.drawing = self._set(self._draws)
        self.residual = 0

    def ends(self) -> Iterator[BranchEnd]:
        """The end of each branch, in the order of their sums."""
        for node in self.nodes:
            if node.op == "call_module":
                yield from self._known(node)
            elif self._is_sum(node) and not self._is_part_of_a_sum(node):
                for branch, fork in self._branches(node):
                    self._refuse_own_noise(branch, fork, node)
                    yield self._end(branch, True) or self._refused(branch, node)

    def _known(self, node: fx.Node) -> Iterator[BranchEnd]:
        """Of torch's transformer layers."""
        for inner, module in self.modules[str(node.target)].named_modules():
            if not isinstance(module, tuple(_KNOWN)):
                continue
            name = ".".join(part for part in (str(node.target), inner) if part)
            if (known := _KNOWN.get(type(module))) is None:
                raise ModelError(
                    f"{name or 'the network'} is a {type(module).__name__}, made of a layer of torch's: it "
                    "is not known where its residual branches end"
                )
            self.residual |= self.bits[node]
            for end in known:
                full = f"{name}.{end}".lstrip(".")
                if self.calls[full] > 1:
                    raise _used_elsewhere(full)
                yield BranchEnd(full, True)

    def _branches(self, node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        """The branches of a sum, each with the node from which it and its shortcut come."""
        terms = [term for term in self._terms(node) if self.above[term] & self.inputs]
        paths = [
            (term, *path)
            for term in terms
            if (path := self._shortcut(term, [other for other in terms if other is not term]))
        ]
        fewest = min((layers for _, _, layers in paths), default=0)
        shortest = [(term, fork) for term, fork, layers in paths if layers == fewest]
        if not shortest:
            return []
        # Of a skip over several blocks, and of the last of them, in one sum: the last.
        fork = max((fork for _, fork in shortest), key=self.bits.__getitem__)
        shortcuts = [term for term, other in shortest if other is fork]
        if len(shortcuts) > 1:
            return []
        found = []
        for term in terms:
            between = self.below[fork] & self.above[term] & ~self.bits[fork]
            skipping = self.above[shortcuts[0]] & ~self.above[fork]
            deeper = self._in_a_row(term, between) > fewest or (not fewest and between & self.named)
            risen = between & self.upsampling and not skipping & self.upsampling
            if term is not shortcuts[0] and between and deeper and not risen and not between & self.residual:
                found.append((term, fork))
        if fewest and (len(terms) > 2 or (found and not self._is_a_block(node, fork))):
            return []
        if found:
            self.residual |= self.bits[node]
        return found

    def _in_a_row(self, term: fx.Node, between: int) -> int:
        """How many layers there are one after another on the longest way to a term."""
        longest: dict[fx.Node, int] = {}
        for node in self.nodes:
            if self.bits[node] & between:
                before = max((longest.get(source, 0) for source in values_of(node)), default=0)
                longest[node] = before + bool(self.bits[node] & self.layers)
        return longest.get(term, 0)

    def _is_a_block(self, node: fx.Node, fork: fx.Node) -> bool:
        """Whether a projection beside deeper layers is a block, and not a linear model beside a deep one."""
        embedded = self._set(lambda node: isinstance(self._module(node), nn.Embedding | nn.EmbeddingBag))
        before = self.above[fork] & self.layers & ~embedded
        after = self.below[node] & self.layers
        if before and not after:
            raise ModelError(
                f"the sum of a projection and deeper layers in {_owner(node)} ends the network: a residual "
                "block and a sum of two answers look the same there; put a StochasticDepth in yourself"
            )
        return bool(after)

    def _shortcut(self, term: fx.Node, others: list[fx.Node]) -> tuple[fx.Node, int] | None:
        """The node from which a term comes by so little that it is a shortcut, and its layers: 0 or 1."""
        shared = 0
        for other in others:
            shared |= self.above[other]
        layers, node = 0, term
        while not self.bits[node] & shared:
            layers += bool(self.bits[node] & self.layers)
            sources = [source for source in values_of(node) if self.above[source] & self.inputs]
            if layers > 1 or len(sources) != 1 or not self._is_plain(node):
                return None
            node = sources[0]
        return node, layers

    def _is_plain(self, node: fx.Node) -> bool:
        if isinstance(self._module(node), (*_PLAIN, *_PROJECTIONS)):
            return True
        name = _function(node)
        if name == "getitem":  # a slice of a tensor, and not a part of a tuple
            return not isinstance(node.args[1], int)
        allowed = (
            _PRODUCTS | _QUOTIENTS | _ELEMENTWISE | _MOVES | _PLAIN_FUNCTIONS | _PROJECTING | _UPSAMPLERS
        )
        return name in allowed or name == "add"

    def _end(self, node: fx.Node, by_item: bool) -> BranchEnd | None:
        """The last module whose output multiplies this value."""
        if len(self._readers(node)) > 1:
            return None
        for name in self.givers.get(node, ()):
            # A Sequential would run the noise that it holds; `average_out` replaces dropouts.
            if self.calls[name] == 1 and not isinstance(self.modules[name], (nn.Sequential, *_DROPOUTS)):
                return BranchEnd(name, by_item)
        for source, keeps in self._scaled_by(node):
            if end := self._end(source, by_item and keeps):
                return end
        return None

    def _scaled_by(self, node: fx.Node) -> list[tuple[fx.Node, bool]]:
        """In which inputs a node's value is homogeneous, and whether the items stay on axis 0."""
        sources = [source for source in node.args[:2] if isinstance(source, fx.Node)]
        name = _function(node)
        if not sources or (sources[0] is not node.args[0] and name not in _PRODUCTS):
            return []
        if name in _PRODUCTS:
            return [(source, True) for source in sources] if len(set(sources)) == len(sources) else []
        if isinstance(self._module(node), _SCALING) or name in _ELEMENTWISE | _RECTIFIERS | _QUOTIENTS:
            return [(sources[0], True)]
        if name == "getitem" and sources[0].op == "call_module" and node.args[1] == 0:
            return [(sources[0], True)]
        return [(sources[0], _keeps_items(node))] if name in _MOVES else []

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        """Who takes the value of a node; of a tuple, who takes the first."""
        readers = [user for user in node.users if node in values_of(user)]
        if node.op != "call_module":
            return readers
        return [
            user
            for user in readers
            if _function(user) != "getitem" or not isinstance(user.args[1], int) or user.args[1] == 0
        ]

    def _refuse_own_noise(self, branch: fx.Node, fork: fx.Node, node: fx.Node) -> None:
        drawn = self.above[branch] & ~self.above[fork] & self.drawing
        if drawn:
            first = next(other for other in self.nodes if self.bits[other] & drawn)
            where = str(first.target) if first.op == "call_module" else _owner(node)
            raise ModelError(
                f"the network has stochastic depth of its own, in {where}: a second one would leave out more "
                "than was asked for; set its rate there, or make the network with a rate of 0"
            )

    def _refused(self, branch: fx.Node, node: fx.Node) -> BranchEnd:
        name = next(iter(self.givers.get(branch, ())), "")
        if name and (self.calls[name] > 1 or len(self._readers(branch)) > 1):
            raise _used_elsewhere(name)
        raise ModelError(
            f"the residual branch that ends in {_function(branch) or branch.name} in {_owner(node)} is no "
            "module's output, nor any multiple of one: make it the output of a module of its own, or put a "
            "StochasticDepth there yourself"
        )

    def _terms(self, node: fx.Node) -> list[fx.Node]:
        terms: list[fx.Node] = []
        for term in node.args[:2]:
            assert isinstance(term, fx.Node)
            terms += self._terms(term) if self._is_sum(term) and self._is_part_of_a_sum(term) else [term]
        return terms

    def _is_part_of_a_sum(self, node: fx.Node) -> bool:
        """Whether a sum is only read by another one beside it."""
        readers = self._readers(node)
        return len(readers) == 1 and self._is_sum(readers[0]) and _owner(readers[0]) == _owner(node)

    def _is_sum(self, node: fx.Node) -> bool:
        """Whether two values that are made of the network's input are added."""
        return _function(node) == "add" and all(
            isinstance(term, fx.Node) and bool(self.above[term] & self.inputs) for term in node.args[:2]
        )

    def _is_layer(self, node: fx.Node) -> bool:
        module = self._module(node)
        if module is None:
            return _function(node) in _LAYER_FUNCTIONS
        return not isinstance(module, (*_NORMS, nn.PReLU)) and next(module.parameters(), None) is not None

    def _draws(self, node: fx.Node) -> bool:
        module = self._module(node)
        if module is None:
            return _function(node) in _DRAWS or getattr(node.target, "__name__", "") in _DRAWS
        return is_drop_path(module) and _rate(module) != 0

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _set(self, belongs: Callable[[fx.Node], bool]) -> int:
        return sum(self.bits[node] for node in self.nodes if belongs(node))


def _function(node: fx.Node) -> str:
    """The name of an operation of torch's, the same for an operator, a method and a function."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    if node.op != "call_function":
        return ""
    name, home = (str(getattr(node.target, what, "")) for what in ("__name__", "__module__"))
    if home.partition(".")[0] not in ("torch", "builtins", operator.add.__module__):
        return ""
    return _IN_PLACE.get(name, name.rstrip("_"))


def values_of(node: fx.Node) -> list[fx.Node]:
    """What the value of a node is made of, and not only its shape."""
    name = _function(node)
    if name in _SHAPES or (name == "getattr" and node.args[1] not in _VALUED_ATTRIBUTES):
        return []
    return node.all_input_nodes


def _keeps_items(node: fx.Node) -> bool:
    """Whether a move of axes surely leaves axis 0 alone."""
    name, rest = _function(node), (*node.args[1:], *node.kwargs.values())
    flat = [part for arg in rest for part in (arg if isinstance(arg, tuple | list) else (arg,))]
    if not flat or name in ("reshape", "view", "expand"):
        return False
    if name == "getitem":
        return bool(flat[0] == slice(None))
    if name == "permute":
        return bool(flat[0] == 0)
    numbers = [part for part in flat if isinstance(part, int)]
    return bool(numbers) and min(numbers) > 0


def _owner(node: fx.Node) -> str:
    """The name of the module in whose code a node is."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else "the network"


def _rate(module: nn.Module) -> float | None:
    """The rate of a drop path, 0 for none; None where it does not tell."""
    for name in ("p", "drop_prob"):
        if hasattr(module, name):
            rate = getattr(module, name)
            return float(rate) if rate is not None else 0.0
    return None


def _used_elsewhere(name: str) -> ModelError:
    return ModelError(f"{name} ends a residual branch and is used elsewhere too: noise there would hit both")
