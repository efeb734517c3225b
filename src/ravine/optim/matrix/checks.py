"""Refusals that several matrix methods share."""


def check_count(name: str, value: int) -> None:
    """Refuse what is no whole number above 0."""
    if not (value >= 1 and value == int(value)):
        raise ValueError(f"Invalid {name}: {value}; it must be a whole number, at least 1")
