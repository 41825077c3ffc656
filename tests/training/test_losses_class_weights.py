"""Training with several labels per example and with weights of classes."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from run_outcome import records

from efficientnetv2 import hparams
from efficientnetv2.training.trainer import Trainer


class TestMultiLabel:
    """Any number of labels per example, the sigmoid loss and class weights."""

    WEIGHTS = tuple(np.linspace(0.25, 3, tiny_run.CLASSES).tolist())

    @staticmethod
    def several(features, labels):
        """Every third example without a label, the others with two."""
        label, rows = labels["label"], tf.reshape(features["image"], [-1])[0]
        label = label + tf.roll(label, 1, axis=-1)
        keep = tf.cast((tf.range(tf.shape(label)[0]) + tf.cast(rows, tf.int32)) % 3 > 0, tf.float32)
        return features, {"label": label * keep[:, tf.newaxis]}

    def train(self, model_dir, strategy=None, weights=WEIGHTS):
        config = tiny_run.make_config("train.stages=1,train.epochs=2,train.loss_type=sigmoid")
        balance = None if weights is None else "loss"
        config = hparams.with_values(config, data__multiclass=True, data__class_balance=balance)
        trainer = Trainer(
            config,
            hparams.make_stages(config),
            str(model_dir),
            strategy or tf.distribute.get_strategy(),
            model=lambda: tiny_run.make_model(bn_synchronized=True),
            class_weights=weights,
        )
        examples = tiny_run.make_examples().batch(7).map(self.several).unbatch()
        trainer.train(
            lambda *where: tiny_run.make_batches(*where).map(self.several), lambda: examples
        )
        return records(model_dir)

    def test_replicas_give_the_result_of_one_device(self, tmp_path, capsys):
        one = self.train(tmp_path / "one")
        shown = capsys.readouterr().out
        both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        two = self.train(tmp_path / "two", both)
        for mine, theirs in zip(two, one, strict=True):
            assert mine == {
                key: pytest.approx(value, rel=1e-3) if isinstance(value, float) else value
                for key, value in theirs.items()
            }
        [*_, last] = [line for line in one if line["kind"] == "eval"]
        assert set(last) == {
            *("kind", "step", "stage", "loss", "examples", "global_ap"),
            *(f"{name}_at_{k}" for name in ("hit", "precision", "recall") for k in (1, 5)),
        }
        assert f"hit@5 {last['hit_at_5']:.4f}  AP {last['global_ap']:.4f}" in shown

    def test_class_weights_change_what_is_minimised(self, tmp_path):
        first = [self.train(tmp_path / f"{w is None}", weights=w)[0] for w in (self.WEIGHTS, None)]
        assert abs(first[0]["loss"] - first[1]["loss"]) > 1e-3
        again = self.train(tmp_path / "ones", weights=(1.0,) * tiny_run.CLASSES)[0]
        assert again["loss"] == pytest.approx(first[1]["loss"], rel=1e-6)


@pytest.mark.parametrize(
    "balance, weights", [("loss", None), (None, (1.0,) * 12), ("sample", (1.0,) * 12)]
)
def test_class_weights_come_with_their_setting(tmp_path, balance, weights):
    config = hparams.with_values(tiny_run.make_config(), data__class_balance=balance)
    stages, strategy = hparams.make_stages(config), tf.distribute.get_strategy()
    with pytest.raises(ValueError, match=f"data.class_balance={balance} with class_weights="):
        Trainer(config, stages, str(tmp_path), strategy, class_weights=weights)
