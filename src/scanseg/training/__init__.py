"""Training: recipe and plan in, run folder out. `loop.train_network` trains, `run.load_network` loads."""
