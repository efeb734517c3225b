"""Going downhill: update rules, optimizers and learning-rate schedules."""
