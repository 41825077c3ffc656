"""How the network learns. TensorFlow only."""

from efficientnetv2.training.evaluation import Evaluator
from efficientnetv2.training.strategy import make_strategy
from efficientnetv2.training.trainer import Trainer, TrainingStopped

__all__ = ["Evaluator", "Trainer", "TrainingStopped", "make_strategy"]
