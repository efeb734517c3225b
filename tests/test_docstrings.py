from ravine.docstrings import meanings, summary

TEXT = """What it does,
    in a paragraph.

    More of it.

    Args:
        lr: how far to go, and
            why.
        beta (float, optional): a share.
        **options: others.

    Raises:
        ValueError: never.
    """


def test_meanings_are_those_of_the_arguments():
    assert meanings(TEXT) == {"lr": "how far to go, and why.", "beta": "a share."}
    assert meanings("It.\n\n    Attributes:\n        one: two\n    ") == {"one": "two"}
    assert meanings(None) == {}


def test_the_summary_is_the_first_paragraph():
    assert summary(TEXT) == "What it does, in a paragraph."
    assert summary(None) == ""
