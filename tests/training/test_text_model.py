import math

import pytest
import torch
from torch import Tensor, nn

from ravine.errors import DataError
from ravine.training.data.dataset import Dataset, Splits, no_positions
from ravine.training.predict import Predictor, predict
from ravine.training.preprocessing import Preprocessing
from ravine.training.text_model import generate, text_scores

LETTERS = "abcd"
# The chances of the next letter after each letter.
CHAIN = torch.tensor(
    [[0.1, 0.6, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]]
)


class Chain(nn.Module):
    """A model that knows the chances: only the last letter counts. It remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.shown.append(tokens.shape[1])
        return CHAIN.log()[tokens]


@pytest.fixture
def predictor() -> Predictor:
    tokens = torch.arange(40) % 4
    data = Dataset("t", "text", "language", tokens, torch.empty(0, dtype=torch.int64), {}, tuple(LETTERS))
    splits = Splits(torch.arange(40), no_positions(), no_positions(), given_test=False)
    return Predictor(Preprocessing.fit(data, splits, "normalize"), Chain(), "language")


def test_the_answer_is_the_chance_of_the_next_character(predictor: Predictor) -> None:
    torch.testing.assert_close(predict(predictor, torch.tensor([[0, 1, 3], [1, 1, 2]])), CHAIN[[3, 2]])


@pytest.mark.parametrize("context", [2, 5, 7, 100])
def test_every_character_but_the_first_is_scored_once(predictor: Predictor, context: int) -> None:
    text = torch.tensor([3, 0, 1, 2, 0, 1, 2, 3, 0, 2, 2])
    scores = text_scores(predictor, text, context, batch_size=2)
    loss = -CHAIN.double()[text[:-1], text[1:]].log().mean().item()
    assert scores["loss"] == pytest.approx(loss, rel=1e-6)
    assert scores["bits"] == pytest.approx(loss / math.log(2), rel=1e-6)
    assert max(predictor.model.shown) <= context


def test_one_character_cannot_be_scored(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="too short"):
        text_scores(predictor, torch.tensor([1]), 8)


def test_texts_are_written_with_the_model_s_own_chances(predictor: Predictor) -> None:
    text = generate(predictor, torch.tensor([0]), 8000, context=4, seed=0)
    counts = torch.zeros(4, 4).index_put_((text[:-1], text[1:]), torch.ones(8000), accumulate=True)
    found = counts / counts.sum(1, keepdim=True)
    spread = (CHAIN * (1 - CHAIN) / counts.sum(1, keepdim=True)).sqrt()
    assert ((found - CHAIN).abs() <= 4 * spread).all()  # what is impossible never comes
    assert max(predictor.model.shown) == 4


def test_the_seed_addresses_the_text_and_the_prompt_is_kept(predictor: Predictor) -> None:
    prompt = torch.tensor([2, 3])
    one, same, other = (generate(predictor, prompt, 50, context=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(one[:2], prompt)
    assert torch.equal(generate(predictor, prompt, 20, context=8, seed=0), one[:22])


def test_a_low_temperature_takes_the_likeliest(predictor: Predictor) -> None:
    text = generate(predictor, torch.tensor([3]), 3, context=8, seed=0, temperature=0.01)
    assert text.tolist() == [3, 0, 1, 2]


def test_an_empty_prompt_is_refused(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="at least one character"):
        generate(predictor, torch.empty(0, dtype=torch.int64), 5, context=8, seed=0)
