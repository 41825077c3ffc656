"""An export of one stack is read, replayed and measured by the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from notebook_runs import ROOT

OTHER = os.environ["OTHER_PYTHON"]
ASK = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = [open(path, "rb").read() for path in sys.argv[2:]]
answer = loaded.signatures["serving_default"](image_bytes=tf.constant(images))
print(json.dumps({"tensorflow": tf.__version__, "scores": answer["scores"].numpy().tolist()}))
"""


def other(*command) -> list[str]:
    done = subprocess.run([OTHER, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_the_other_stack_verifies_it(exported):
    lines = other("main.py", "--mode=verify", f"--export_dir={exported}")
    rows = {line[:24].strip(): line[24:] for line in lines}
    assert {"files", "signatures", "warm-up", "scores"} <= set(rows)
    assert float(rows["scores"].split()[-1].rstrip(")")) < 1e-4


def test_tensorflow_alone_gives_the_same_scores(exported, pngs, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(len(pngs))]
    for path, content in zip(paths, pngs):
        path.write_bytes(content)
    answer = json.loads(other("-c", ASK, exported, *map(str, paths))[-1])
    card = json.loads((Path(exported) / "model_card.json").read_text())
    assert answer["tensorflow"] != card["versions"]["tensorflow"] == tf.__version__, sys.version
    own = tf.saved_model.load(exported).signatures["serving_default"]
    scores = own(image_bytes=tf.constant(pngs))["scores"].numpy()
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-5)
