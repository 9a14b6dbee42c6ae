"""One run: its data, state, checkpoints, metrics and held-out evaluation."""
