"""Training: the run, the trainer and its parts. TensorFlow only."""
