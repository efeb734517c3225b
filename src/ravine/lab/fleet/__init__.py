"""The fleet: many models trained as one (T15)."""
