"""Beyond the training error: noise in training that is averaged out at test time, and penalties."""
