"""What a language model writes, for the report."""

import torch

from ..randomness import generator
from .setup import Setup

LENGTH = 400


@torch.inference_mode()
def text_sample(setup: Setup, length: int = LENGTH) -> str:
    """`length` characters that the model writes after the first character of the validation text.

    Drawn from the model's own probabilities; addressed by the run's seed, so a run writes the same again.
    """
    dataset, splits = setup.dataset, setup.splits
    assert dataset is not None and splits is not None
    context = int(setup.recipe.model.settings.get("context", 128))
    draw = generator(setup.recipe.seed, "sample")
    tokens = dataset.fetch(splits.train[:1]).to(setup.device)
    for _ in range(length):
        logits = setup.model(tokens[None, -context:])[0, -1].float()
        tokens = torch.cat([tokens, torch.multinomial(logits.softmax(0).cpu(), 1, generator=draw).to(setup.device)])
    return "".join(dataset.classes[token] for token in tokens.tolist())
