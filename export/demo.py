"""Demo page (`--mode=demo`): classes, Grad-CAM and time of an image in the browser."""

import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.bad_examples import clean_message
from efficientnetv2.export.compare import sample_images
from efficientnetv2.export.serving import ServingModule
from efficientnetv2.hparams import Config
from efficientnetv2.report.evaluate import grad_cam, overlay
from efficientnetv2.training.losses import activation_of

try:
    import gradio
except ModuleNotFoundError:  # An extra.
    gradio = None

TOP = 5


class Viewer:
    """What the page shows of a photo."""

    def __init__(self, model: keras.Model, config: Config, class_names: Sequence[str]):
        activation = activation_of(config.train.loss_type)
        self.serving = ServingModule(model, config.eval.isize, config.data, (), activation)
        self.model = model
        classes = model.output_shape[-1]
        self.class_names = list(class_names) or [f"class {index}" for index in range(classes)]
        self._look(sample_images()[0])  # The first call traces, which takes seconds.

    def look(self, path: str) -> tuple[dict[str, float], np.ndarray, str]:
        """Image file -> scores of the best classes by name, Grad-CAM of the best, the time taken.

        The picture is uint8 [S, S, 3]: what the network sees, under a map of what speaks for it.
        Raises: UserError if the file is no readable image.
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
    """Returns a `gradio.Blocks`. It loads nothing from outside; `examples` are image files.

    Raises: UserError if gradio is not installed.
    """
    if gradio is None:
        raise UserError("--mode=demo needs gradio; pip install -r requirements-demo.txt")

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
    """Starts the page on this machine alone and returns its address; `port` None: a free one.

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
        theme=gradio.themes.Default(**fonts),  # Others load their fonts from Google.
    )
    return url
