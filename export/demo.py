"""Demo page (`--mode=demo`): classes, Grad-CAM and inference time of an image in the browser."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import install_command
from efficientnetv2.datasets import open_source
from efficientnetv2.datasets.bad_examples import clean_message, format_of
from efficientnetv2.export.compare import sample_images
from efficientnetv2.export.serving import ServingModule
from efficientnetv2.hparams import Config
from efficientnetv2.report.evaluate import grad_cam, overlay
from efficientnetv2.training.load_trained import Trained, as_trained
from efficientnetv2.training.losses import activation_of

try:
    import gradio
except ModuleNotFoundError:  # An optional dependency.
    gradio = None

TOP = 5
EXAMPLES = 6  # Images of the evaluation split, evenly spaced.


class Viewer:
    """Computes what the page shows for a photo."""

    def __init__(self, model: keras.Model, config: Config, class_names: Sequence[str]):
        activation = activation_of(config.train.loss_type)
        self.serving = ServingModule(model, config.eval.isize, config.data, (), activation)
        self.model = model
        classes = model.output_shape[-1]
        self.class_names = list(class_names) or [f"class {index}" for index in range(classes)]
        self._look(sample_images()[0])  # The first call traces, which takes seconds.

    def look(self, path: str) -> tuple[dict[str, float], np.ndarray, str]:
        """Returns the scores of an image's best classes by name, Grad-CAM of the best, and time.

        The Grad-CAM picture is uint8 [S, S, 3]: the network's input under a map of the evidence.
        Raises: UserError if the file is not a readable image.
        """
        with open(path, "rb") as file:
            return self._look(file.read())

    def _look(self, image_bytes: bytes):
        encoded = tf.constant([image_bytes])
        begun = time.perf_counter()
        try:
            pixels = self.serving.pixels(encoded)
            answer = self.serving.predict_images_float(pixels)
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"no readable image: {clean_message(error)}") from error
        taken = time.perf_counter() - begun
        best = answer["classes"][0].numpy()
        scores = {self.class_names[i]: float(answer["scores"][0, i]) for i in best[:TOP]}
        seen = np.clip(np.rint(pixels[0].numpy()), 0, 255).astype(np.uint8)
        evidence = grad_cam(self.model, pixels, best[:1])[0]
        return scores, overlay(seen, evidence), f"{taken * 1e3:.0f} ms for decoding and the network"


def build_page(viewer: Viewer, title: str, examples: Sequence[str] = ()):
    """Returns a `gradio.Blocks` without external resources; `examples` are image files.

    Raises: UserError if gradio is not installed.
    """
    if gradio is None:
        raise UserError(f"--mode=demo needs gradio; {install_command('demo')}")

    def shown(path):
        if path is None:
            return None, None, ""
        try:
            return viewer.look(path)
        except UserError as error:
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(
            f"# {title}\nDrop a photo: the best classes, and what speaks for the first."
        )
        with gradio.Row():
            with gradio.Column():
                photo = gradio.Image(
                    type="filepath", image_mode=None, label="Photo", sources=["upload"]
                )
                if examples:
                    gradio.Examples(list(examples), photo, label="From the data set")
            with gradio.Column():
                classes = gradio.Label(num_top_classes=TOP, label="Classes")
                taken = gradio.Textbox(label="Time", interactive=False)
            evidence = gradio.Image(label="Grad-CAM", interactive=False)
        photo.change(shown, photo, [classes, evidence, taken], api_name="classify")
    return page


def serve(page, port: int | None = None) -> str:
    """Serves the page on localhost only and returns its address; `port` None: any free port.

    Raises: OSError if the port is taken.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        footer_links=[],
        theme=gradio.themes.Default(**fonts),  # Other themes load their fonts from Google.
    )
    return url


@contextlib.contextmanager
def demo(
    run: str | os.PathLike | Trained, *, port: int | None = None, verbose: bool = False
) -> Iterator[tuple[str, object]]:
    """Serves a demo page for a trained network on this machine, inside a `with` block.

    The page shows the classes, Grad-CAM and inference time of a dropped photo, and examples of
    the `eval` split if its data is available. It works offline and cannot be reached from other
    machines.

    Args:
        run: directory of a run, or the result of `load_run` or `load_pretrained`.
        port: port of the page; None: any free port.

    Yields: (address, page); `page.block_thread()` serves until Ctrl-C.

    Raises: UserError if gradio is not installed or the port is taken.

    Example:
        with effnet.demo("runs/photos") as (url, page):
            print(url)
            page.block_thread()
    """
    with verbosity(verbose), tempfile.TemporaryDirectory() as folder:
        run = as_trained(run)
        page = build_page(
            Viewer(run.model, run.config, run.class_names),
            title=run.model.name,
            examples=_examples(run.config, folder),
        )
        try:
            url = serve(page, port)
        except OSError as error:
            raise UserError(f"--port={port} is taken; give another one") from error
        try:
            yield url, page
        finally:
            page.close(verbose=False)


def _examples(config: Config, folder: str) -> list[str]:
    """Writes images of the `eval` split to files; prints a note instead if the data is missing."""
    try:
        source = open_source(config.data, "eval", config.train.seed)
    except UserError as error:
        show(f"without examples from the data set: {error}")
        return []
    step, paths = max(1, source.num_examples // EXAMPLES), []
    for record in source.records(None).shard(step, 0).take(EXAMPLES):
        encoded = source.load(*record)[0].numpy()
        extension = (format_of(encoded) or "jpeg").lower()
        paths.append(os.path.join(folder, f"example_{len(paths)}.{extension}"))
        with open(paths[-1], "wb") as file:
            file.write(encoded)
    return paths
