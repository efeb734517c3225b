"""One run: data, model, recipe, loop, checkpoints, the run folder."""
