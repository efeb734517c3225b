"""What a language model says of a text, and the texts it writes."""

import torch
from torch import Tensor

from ..errors import DataError
from ..randomness import generator
from .data.batches import TextBatches
from .evaluate import outputs_over
from .feed import Feed
from .metrics import evaluate_outputs
from .predict import Predictor


def text_scores(predictor: Predictor, tokens: Tensor, context: int, batch_size: int = 64) -> dict[str, float]:
    """How well a text is predicted, cut into windows as in a run's own scores.

    Args:
        predictor: of a language model.
        tokens: the text (L,), int64.
        context: the most tokens that the model can look at.
        batch_size: windows at once.

    Returns:
        `loss` in nats a character, `accuracy` of the first guess, and `bits` a character.

    Raises:
        DataError: the text has fewer than two characters.
    """
    feed = Feed(TextBatches(tokens, context, batch_size, shuffle=False), _device(predictor))
    found = outputs_over(predictor.model, feed, "language")
    return evaluate_outputs("language", found.outputs, found.targets)


@torch.inference_mode()
def generate(
    predictor: Predictor, prompt: Tensor, length: int, context: int, seed: int, temperature: float = 1.0
) -> Tensor:
    """A text that the model writes: `prompt` and `length` tokens more.

    Args:
        predictor: of a language model, in evaluation mode.
        prompt: tokens (L,), int64, at least one.
        length: how many tokens to add.
        context: the most tokens that the model can look at.
        seed: addresses the draws.
        temperature: above 0; below 1 the likely becomes likelier.

    Returns:
        tokens (L + length,) on the CPU.

    Raises:
        DataError: the prompt is empty.
    """
    if len(prompt) == 0:
        raise DataError("the prompt is empty: a text to continue needs at least one character.")
    device = _device(predictor)
    tokens = torch.cat((prompt.cpu(), prompt.new_empty(length, device="cpu")))
    draws = torch.rand(length, generator=generator(seed, "generate"), dtype=torch.float64)
    for position in range(len(prompt), len(tokens)):
        seen = tokens[max(0, position - context) : position].unsqueeze(0)
        logits = predictor(seen.to(device))[0].cpu().double().log() / temperature
        # Where the cumulated probability passes a uniform draw.
        steps = logits.softmax(0).cumsum(0)
        chosen = torch.searchsorted(steps, draws[position - len(prompt)] * steps[-1], right=True)
        tokens[position] = chosen.clamp(max=len(steps) - 1)  # a draw next to 1 may round up to it
    return tokens


def _device(predictor: Predictor) -> torch.device:
    return predictor.preprocessing.target_mean.device
