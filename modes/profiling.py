"""Mode profile: what networks cost, beside what was published."""

import json
import os
import sys

from absl import flags

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_write
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import configured, make_output_dir, report

FLAGS = flags.FLAGS


def profile() -> None:
    """One model, or with --model_name=all each named one, at its evaluation size."""
    name = FLAGS.model_name
    if name is None:
        raise UserError("--model_name is needed with --mode=profile: a model, or all")
    if name == "all":
        sizes = {model: row.eval_size for model, row in hparams.MODELS.items()}
        if FLAGS.hparam_str:
            raise UserError("--hparam_str is for one model; drop it, or name the model")
    else:
        sizes = {name: configured().eval.isize}
    if FLAGS.output_dir:
        make_output_dir(FLAGS.output_dir)
    import_tensorflow()
    import keras

    from efficientnetv2.network import profile

    profiles = []
    for number, (model, size) in enumerate(sizes.items(), 1):
        if len(sizes) > 1:
            print(f"{number}/{len(sizes)} {model}", file=sys.stderr, flush=True)
        profiles.append(_profile(model, size))
        keras.backend.clear_session()  # The largest take gigabytes.
    print(profile.profile_table(profiles))
    records = [profile.profile_record(one) for one in profiles]
    if FLAGS.output_dir:
        from efficientnetv2.report.plots import save_chart

        for one in profiles:
            name = one.model.replace("/", "-")
            path = os.path.join(FLAGS.output_dir, f"{name}-{one.image_size}.png")
            save_chart(one, path)
            print(f"chart  {path}")
        path = os.path.join(FLAGS.output_dir, "profile.json")
        atomic_write(path, json.dumps(records, indent=1))
    report({"profiles": records})


def _profile(model: str, size: int):
    """A named model by its name; one with overrides as its config says."""
    from efficientnetv2.hparams.models import spec_from_config
    from efficientnetv2.network import profile

    if FLAGS.hparam_str and not model.startswith("keras/"):
        return profile.profile_model(spec_from_config(configured().model), size)
    return profile.profile_model(model, size)
