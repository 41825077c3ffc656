"""How the network learns. TensorFlow only."""

from efficientnetv2.training.evaluation import Evaluator
from efficientnetv2.training.strategy import make_strategy
from efficientnetv2.training.trainer import Trainer, build_from_config

__all__ = ["Evaluator", "Trainer", "build_from_config", "make_strategy"]
