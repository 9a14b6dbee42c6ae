"""The models: packed batches, attention over them, policy and critic, adapters, optimizers."""
