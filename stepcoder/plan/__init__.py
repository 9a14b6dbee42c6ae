"""Tool: what a run takes of memory, from a model's shape and the run's options alone."""
