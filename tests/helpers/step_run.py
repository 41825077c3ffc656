"""A small network with noise, and training steps of it on one batch."""

import keras
import numpy as np
import tensorflow as tf
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.optimizer import Optimization, policy_scope
from efficientnetv2.training.step import make_train_step

STRATEGY = tf.distribute.get_strategy()


class Run:
    """A network with noise and its steps on the same batch."""

    def __init__(self, overrides="", strategy=STRATEGY, batch=8):
        config = tiny_run.make_config(f"model.dropout_rate=0.2,{overrides}")
        self.strategy, self.batch = strategy, batch
        stage = hparams.make_stages(config)[0]
        keras.utils.set_random_seed(1)
        with strategy.scope():
            with policy_scope(config.train.precision):
                several = strategy.num_replicas_in_sync > 1
                self.model = tiny_run.make_model(several)
            self.optimization = Optimization(config, self.model)
            self.average = WeightAverage(self.model, 0.9)
        self.train_step = make_train_step(
            strategy, self.model, self.optimization, self.average, config, stage, 12
        )

    def step(self, number=0, rate=0.1, **changes):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (self.batch, 17, 17, 3), dtype=np.uint8)
        label = rng.dirichlet(np.ones(tiny_run.CLASSES), self.batch).astype(np.float32)
        examples = {"image": image}, {"label": changes.get("label", label)}
        data = tf.data.Dataset.from_tensors(examples).unbatch().batch(self.batch)
        batches = iter(self.strategy.experimental_distribute_dataset(data))
        result = self.train_step(*next(batches), number, rate)
        return {name: np.asarray(value) for name, value in result._asdict().items()}

    def numbers(self):
        """Weights and their averages."""
        found = {var_path(w): tf_variable(w).numpy() for w in self.model.weights}
        averages = {f"ema/{k}": v.numpy() for k, v in self.average.by_path.items()}
        return found | averages

    def state(self):
        return {key: variable.numpy() for key, variable in self.optimization.variables.items()}


def assert_close(mine, theirs, rtol=1e-4, atol=1e-5):
    """Variances of one replica may have Bessel's correction, those of several have none."""
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        rtol = max(rtol, 6e-3) if "variance" in path else rtol
        np.testing.assert_allclose(value, theirs[path], rtol=rtol, atol=atol, err_msg=path)
