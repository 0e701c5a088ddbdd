"""Training: a recipe and a plan in, a run folder out. `loop.train_network` trains, `run.load_network` loads."""
