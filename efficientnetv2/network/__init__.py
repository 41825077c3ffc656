"""The network: blocks, layers, models, counts and profile. Keras only."""
