"""Report of a run: one HTML page, its pictures as PNG, and `report.json`."""

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from efficientnetv2.common.console import show, verbosity
from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path, atomic_write, make_local_folder
from efficientnetv2.common.plots import draw_confusion, figure_png
from efficientnetv2.hparams import Config, dataset_cfg_of
from efficientnetv2.report.evaluate import Findings, draw_mistakes, evaluate_split
from efficientnetv2.report.history import History, is_finished, read_history, throughputs
from efficientnetv2.report.html import numbers, page, paragraph
from efficientnetv2.report.plots import CURVES, confused_pairs, draw_curve, draw_throughput
from efficientnetv2.report.sections import (
    MOST_PAIRS,
    class_rows,
    class_section,
    config_section,
    confusion_section,
    curve_section,
    environment_section,
    error_section,
    percent,
    stage_section,
)
from efficientnetv2.training.checkpoint import read_best
from efficientnetv2.training.environment import environment, saved_environments
from efficientnetv2.training.load_trained import Trained, load_run
from efficientnetv2.training.run_dir import open_run
from efficientnetv2.weights.tf_checkpoint import checkpoint_prefix

PAGE, NUMBERS = "report.html", "report.json"
_SCORES = {  # The main scores, for the top of the page.
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "hit_at_1": "hit@1",
    "hit_at_5": "hit@5",
    "global_ap": "global average precision",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """The data of a report. `findings` and `model` are None before the run's first checkpoint.

    `best`: the content of its best.json; `environments`: the environments it was trained in.
    """

    name: str
    config: Config
    class_names: tuple[str, ...]
    history: History
    findings: Findings | None = None
    model: object = None
    best: Mapping | None = None
    environments: Sequence[Mapping[str, str]] = ()


def report(
    run: str | os.PathLike | Trained,
    output_dir: str | os.PathLike | None = None,
    *,
    verbose: bool = False,
) -> dict:
    """Writes a report of a run, finished or not: curves, scores per class, worst errors.

    It evaluates the `eval` split, or `minival` if the run is not finished.

    Args:
        run: directory of a run, which may have no checkpoint yet, or the result of `load_run`.
        output_dir: folder for report.html, PNGs and report.json; None: `report` in the run's
            directory.

    Returns: {"report": path of the page, "step": the evaluated step, and the scores}.

    Raises: UserError if `run` is not a run, its data cannot be read, or a file cannot be written.

    Example:
        print(effnet.report("runs/photos")["report"])
    """
    with verbosity(verbose):
        trained = run if isinstance(run, Trained) else None
        model_dir = run.model_dir if trained else as_path(run, "run")
        if trained is None and checkpoint_prefix(model_dir) is not None:
            trained = load_run(model_dir, verbose=verbose)
        if model_dir is None:
            raise UserError("a report needs a run; give the directory of one")
        config, class_names = open_run(model_dir)
        history = read_history(model_dir, config)
        findings = None
        if trained is None:
            show(f"no checkpoint in {model_dir} yet: curves and settings alone")
        else:
            findings = evaluate_split(
                trained, "eval" if is_finished(history, config) else "minival"
            )
        path = write_report(
            Run(
                os.path.basename(os.path.abspath(model_dir)),
                config,
                class_names,
                history,
                findings,
                trained and trained.model,
                read_best(model_dir),
                saved_environments(model_dir),
            ),
            as_path(output_dir or os.path.join(model_dir, "report"), "output_dir"),
        )
    scores = findings.scores if findings else {}
    return {"report": path, "step": findings.step if findings else None, **scores}


def write_report(run: Run, output_dir: str) -> str:
    """Writes a self-contained `report.html`, PNGs and `report.json`; returns the page's path.

    Each file is written atomically, the page last.
    Raises: UserError if a file cannot be written.
    """
    make_local_folder(output_dir, f"cannot make the folder {output_dir}")
    pictures = draw_pictures(run)
    _remove_old_errors(output_dir, pictures)
    for name, png in pictures.items():
        atomic_write(os.path.join(output_dir, f"{name}.png"), png)
    atomic_write(os.path.join(output_dir, NUMBERS), json.dumps(report_numbers(run), indent=1))
    path = os.path.join(output_dir, PAGE)
    atomic_write(path, render(run, pictures))
    return path


def draw_pictures(run: Run) -> dict[str, bytes]:
    """Returns the PNGs by name, except those for which the run has no data."""
    figures = {curve.name: draw_curve(run.history, curve) for curve in CURVES}
    figures["throughput"] = draw_throughput(throughputs(run.history))
    findings = run.findings
    if findings is not None and findings.confusion is not None:
        figures["confusion"] = draw_confusion(findings.confusion, run.class_names)
    pictures = {name: figure_png(one) for name, one in figures.items() if one is not None}
    if findings is not None:
        strips = draw_mistakes(run.model, findings.mistakes)
        pictures |= {f"error_{number:02d}": png for number, png in enumerate(strips, 1)}
    return pictures


def _remove_old_errors(output_dir: str, pictures: Mapping[str, bytes]) -> None:
    """Removes error pictures of an earlier report, which may have had more of them."""
    for file in os.listdir(output_dir):
        if re.fullmatch(r"error_\d+\.png", file) and file.removesuffix(".png") not in pictures:
            os.remove(os.path.join(output_dir, file))


def render(run: Run, pictures: Mapping[str, bytes]) -> str:
    """Returns the page as HTML."""
    history, config, findings = run.history, run.config, run.findings
    sections = [
        curve_section(history, pictures),
        stage_section(history, throughputs(history), pictures.get("throughput")),
    ]
    top = numbers(_top_numbers(run))
    if findings is None:
        top += paragraph(
            "There is no checkpoint yet, so nothing was evaluated: curves and settings alone.",
            "notice",
        )
    else:
        sections.append(class_section(findings, run.class_names, config.data.multiclass))
        if findings.confusion is not None:
            heat_map = pictures["confusion"]
            sections.append(confusion_section(findings, run.class_names, heat_map))
        strips = [png for name, png in sorted(pictures.items()) if name.startswith("error_")]
        sections.append(error_section(findings, run.class_names, strips))
    sections.append(config_section(config))
    sections.append(environment_section(run.environments, environment()))
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return page(run.name, _subtitle(run), top, sections, f"Made on {now}.")


def _subtitle(run: Run) -> str:
    history = run.history
    state = "finished" if is_finished(history, run.config) else "not finished"
    steps = f"{state}, at step {history.step:,} of {history.end_step:,}"
    parts = [run.config.model.model_name, f"on {dataset_cfg_of(run.config)}", steps]
    if run.findings is not None and run.findings.step is not None:
        weights = f"the weights of step {run.findings.step:,}"
        where = f"{run.findings.split} split at {run.findings.image_size} px"
        parts.append(f"evaluated: {weights} on the {where}")
    return "; ".join(parts)


def _top_numbers(run: Run) -> list[tuple[str, str]]:
    history, pairs = run.history, []
    if run.findings is not None:
        scores = run.findings.scores
        named = {key: name for key, name in _SCORES.items() if key in scores}
        pairs += [(percent(scores[key]), name) for key, name in named.items()]
        pairs.append((f"{scores['loss']:.3f}", "evaluation loss"))
        pairs.append((f"{scores['examples']:,}", f"images of the {run.findings.split} split"))
    elif history.train:
        pairs.append((f"{history.train[-1]['loss']:.3f}", "training loss"))
        pairs.append((percent(history.train[-1]["accuracy"]), "training accuracy"))
    if run.best is not None:
        metric, step = run.best["metric"], run.best["step"]
        pairs.append((f"{run.best['value']:.4f}", f"best {metric} in training, at step {step:,}"))
    begun = len(history.begun_stages())
    pairs.append((f"{begun} of {len(history.stages)}", "stages begun"))
    pairs.append((f"{history.step / history.end_step:.0%}", f"of {history.end_step:,} steps"))
    return pairs


def report_numbers(run: Run) -> dict:
    """Returns the numbers of the page, for JSON."""
    findings, names = run.findings, run.class_names
    values = {
        "name": run.name,
        "step": run.history.step,
        "end_step": run.history.end_step,
        "finished": is_finished(run.history, run.config),
        "best": run.best and dict(run.best),
        "throughput": [
            {
                "stage": speed.stage.index + 1,
                "steps_done": speed.steps_done,
                "images_per_second": speed.images_per_second,
                "megapixels_per_second": speed.megapixels_per_second,
                "seconds": speed.seconds,
            }
            for speed in throughputs(run.history)
        ],
    }
    if findings is None:
        return values
    classes = [
        {"class": name, "score": None if np.isnan(score) else score, "images": count}
        for name, score, count in class_rows(findings, names)
    ]
    pairs = () if findings.confusion is None else confused_pairs(findings.confusion, MOST_PAIRS)
    return values | {
        "checkpoint_step": findings.step,
        "split": findings.split,
        "scores": findings.scores,
        "classes": classes,
        "confused": [
            {"class": names[p.label], "taken_for": names[p.predicted], "images": p.count}
            for p in pairs
        ],
        "errors": [
            {
                "example": one.name or one.position,
                "classes": [names[label] for label in one.labels],
                "taken_for": names[one.predicted],
                "score": one.score,
            }
            for one in findings.mistakes
        ],
    }
