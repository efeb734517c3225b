"""Pretrained networks to start from (T30): Ravine's own, files that a person has, and those of model hubs."""
