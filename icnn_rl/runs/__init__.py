"""What the command line does, as functions: configuration, run folders, training, evaluation, pictures."""
