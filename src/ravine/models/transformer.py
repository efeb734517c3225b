"""A small causal transformer for text."""

from collections import OrderedDict

from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..registry import register
from .activations import activation as make_activation
from .activations import activation_expansion
from .initialization import initialize
from .normalization import normalization as make_normalization
from .shapes import require_positive, require_rate


@register(
    "model",
    "transformer",
    "small causal transformer: predicts the next token",
    source="Vaswani et al. 2017; Radford et al. 2019",
)
def transformer(
    shape: tuple[int, ...],
    outputs: int,
    *,
    context: int = 128,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    activation: str = "gelu",
    normalization: str = "layer",
    initialization: str = "gpt2",
    dropout: float = 0.0,
) -> nn.Module:
    """Token and position embeddings, pre-norm blocks of attention and perceptron, tied output weights.

    Inputs int64 (N, T) with T at most `context`, outputs (N, T, outputs): logits of the next token.

    Args:
        shape: shape of one item: () for text.
        outputs: number of tokens in the vocabulary.
        context: the most tokens it can look at.
        width: size of the vector of each token; a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads of each block.
        activation: what stands between the two layers of each perceptron.
        normalization: what stands before each branch: layer, group or none.
        initialization: how the weights start.
        dropout: share of each branch's outputs, and of the embeddings, set to zero in training.

    Raises:
        ModelError: no text, a size or rate out of range, or a normalization that sees later positions.
        RecipeError: a name is unknown.
    """
    if shape:
        raise ModelError(f"model 'transformer' takes text, but items have shape {shape}")
    require_positive("transformer", outputs=outputs, context=context, width=width, depth=depth, heads=heads)
    require_rate("transformer", dropout)
    if width % heads:
        raise ModelError(
            f"model 'transformer': width must be a multiple of heads, not {width} with {heads} heads"
        )
    made = [Block(width, heads, activation, normalization, dropout) for _ in range(depth)]
    model = Transformer(
        outputs, context, width, made, make_normalization(normalization, width, "sequence"), dropout
    )
    ends = [
        end for block in made for end in (block.attention.output, block.perceptron.get_submodule("output"))
    ]
    initialize(model, initialization, activation=activation, branch_ends=ends)
    return model


class Transformer(nn.Module):
    """Embeddings, blocks, a last normalization, and the token embedding again as the output layer."""

    def __init__(
        self, tokens: int, context: int, width: int, blocks: list["Block"], norm: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width)
        self.position = nn.Embedding(context, width)
        # The token embedding is the output layer too: drawn at N(0, 1), as PyTorch does, its logits would
        # be far from chance, so "torch" starts from here as well.
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(OrderedDict((f"block{i + 1}", block) for i, block in enumerate(blocks)))
        self.norm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Int64 (N, T) to logits (N, T, vocabulary)."""
        length = tokens.shape[1]
        _require_fit(length, self.position.num_embeddings)
        x = self.dropout(self.token(tokens) + self.position.weight[:length])
        # Tied without a second module, so that the state dict holds the shared weights once.
        return F.linear(self.norm(self.blocks(x)), self.token.weight)


@fx.wrap  # a trace keeps the call: what it decides depends on the text
def _require_fit(length: int, context: int) -> None:
    if length > context:
        raise ModelError(
            f"a text of {length} tokens does not fit the transformer's context of {context}; "
            "cut it, or train with a larger model.context"
        )


class Block(nn.Module):
    """Attention, then a perceptron four times as wide, each added to what came in."""

    def __init__(self, width: int, heads: int, activation: str, normalization: str, dropout: float) -> None:
        super().__init__()
        hidden = 4 * width
        self.attention_norm = make_normalization(normalization, width, "sequence")
        self.attention = Attention(width, heads)
        self.perceptron_norm = make_normalization(normalization, width, "sequence")
        self.perceptron = nn.Sequential(
            OrderedDict(
                hidden=nn.Linear(width, hidden * activation_expansion(activation)),
                activation=make_activation(activation),
                output=nn.Linear(hidden, width),
            )
        )
        # On the branches alone: inside the attention it would take torch's slow path.
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        out: Tensor = x + self.dropout(self.perceptron(self.perceptron_norm(x)))
        return out


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape; each position sees itself and those before it."""
        # (N, T, 3·width) -> three of (N, heads, T, width/heads)
        query, key, value = self.input(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out
