"""What the supervised tasks share: the training loop, batches, losses, data files, saved modules, warm starts."""
