import pytest
import torch

from ravine.errors import DataError
from ravine.training.data import open_data

TEXT = "the quick brown fox jumps over the lazy dog, äöü 🦊\n" * 5


def test_a_text_becomes_tokens_that_spell_it(tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    data = open_data(tmp_path / "fox.txt")
    assert data.classes == tuple(sorted(set(TEXT)))
    assert "".join(data.classes[token] for token in data.inputs.tolist()) == TEXT
    assert (data.kind, data.task, data.item_shape, data.inputs.dtype) == ("text", "language", (), torch.int64)
    assert data.name == "fox"


def test_a_folder_with_one_text_is_that_text(tmp_path):
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "README.md").write_text("about")
    assert len(open_data(tmp_path).inputs) == len(TEXT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"too short", "has 9 characters: too short"),
        (b"a" * 500, "one character over and over"),
        (b"abc\xff" * 100, r"no UTF-8 text: byte 3 \(0xff\)"),
        (b"abc\0" * 100, "binary, not a text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "a.txt")
