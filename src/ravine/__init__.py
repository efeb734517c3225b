"""The rooms of the house: see docs/architecture.md."""
