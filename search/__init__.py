"""Training-aware architecture search and scaling. Source: paper section 3.3."""
