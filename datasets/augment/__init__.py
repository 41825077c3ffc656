"""Augmentation: operations, policies, Mixup and CutMix, keras-cv layers."""
