"""Training-aware architecture search and scaling."""
