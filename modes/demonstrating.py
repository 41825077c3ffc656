"""Mode demo: a page on this machine where a trained network can be tried."""

import os
import tempfile

from absl import flags

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.tf_import import import_tensorflow
from modes.common import report
from modes.trained import trained

FLAGS = flags.FLAGS
EXAMPLES = 6  # Of the evaluation split, evenly spread.


def demonstrate() -> None:
    """Serves the page until Ctrl-C; it needs no network, nor is it seen from other machines."""
    import_tensorflow()
    from efficientnetv2.export.demo import Viewer, build_page, serve

    run = trained()
    with tempfile.TemporaryDirectory() as folder:
        page = build_page(
            Viewer(run.model, run.config, run.class_names),
            title=run.model.name,
            examples=_examples(run.config, folder),
        )
        try:
            url = serve(page, FLAGS.port)
        except OSError as error:
            raise UserError(f"--port={FLAGS.port} is taken; give another one") from error
        print(f"open {url} ; Ctrl-C ends", flush=True)
        report({"url": url})
        page.block_thread()


def _examples(config, folder: str) -> list[str]:
    """Files with images of the `eval` split, if the data is there; says so if it is not."""
    from efficientnetv2 import datasets
    from efficientnetv2.datasets.bad_examples import format_of

    try:
        source = datasets.open_source(config.data, "eval", config.train.seed)
    except UserError as error:
        print(f"without examples from the data set: {error}", flush=True)
        return []
    step, paths = max(1, source.num_examples // EXAMPLES), []
    for record in source.records(None).shard(step, 0).take(EXAMPLES):
        encoded = source.load(*record)[0].numpy()
        ending = (format_of(encoded) or "jpeg").lower()
        paths.append(os.path.join(folder, f"example_{len(paths)}.{ending}"))
        with open(paths[-1], "wb") as file:
            file.write(encoded)
    return paths
