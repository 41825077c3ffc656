"""The parts of the page that are about the run: curves, stages, config, environment."""

import dataclasses
from collections.abc import Mapping, Sequence

from efficientnetv2.report.curves import CURVES
from efficientnetv2.report.history import History, Throughput
from efficientnetv2.report.markup import Section, folded, grid, paragraph, picture, table, text
from hparams import Config, differing_keys


def curve_section(history: History, charts: Mapping[str, bytes]) -> Section:
    """The curves that there are, by the names of `CURVES`."""
    shown = [
        picture(charts[curve.name], f"{curve.title} from step 0 to step {history.step}.")
        for curve in CURVES
        if curve.name in charts
    ]
    if not shown:
        return Section("curves", "Curves", paragraph("Nothing has been logged yet."))
    note = (
        "Shaded: the stages, with image size, RandAugment magnitude (RA), Mixup and CutMix alpha, "
        "and dropout. A training point is the mean since the point before."
    )
    return Section("curves", "Curves", paragraph(note, "faint") + grid("charts", shown))


def stage_section(history: History, speeds: Sequence[Throughput], chart: bytes | None) -> Section:
    """The stages as planned, how far each is, and how fast it was."""
    heads = ("stage", "steps", "done", "epochs", "size", "batch", "magnitude", "mixup", "cutmix")
    heads = (*heads, "dropout", "images/s", "Mpixel/s", "time")
    by_index = {speed.stage.index: speed for speed in speeds}
    rows = [_stage_row(stage, by_index.get(stage.index)) for stage in history.stages]
    if not any(stage.cutmix_alpha for stage in history.stages):
        unused = heads.index("cutmix")
        heads, *rows = (row[:unused] + row[unused + 1 :] for row in (heads, *rows))
    body = table(heads, rows, range(1, len(heads)))
    for stage in history.stages:
        if stage.variants:
            sizes = ", ".join(f"{variant.image_size} px" for variant in stage.variants)
            body += paragraph(f"Each step of stage {stage.index + 1} draws one of: {sizes}.")
    note = (
        "Speed is the median of the logged windows; time that of the images in them, without "
        "tracing, evaluations and checkpoints."
    )
    body += paragraph(note, "faint")
    if chart is not None:
        alternative = "Images per second of each stage; the numbers are in the table above."
        body += grid("charts", [picture(chart, alternative)])
    return Section("stages", "Stages and throughput", body)


def _stage_row(stage, speed: Throughput | None) -> tuple:
    timed = speed is not None and speed.images_per_second is not None
    return (
        stage.index + 1,
        f"{stage.first_step:,}–{stage.end_step:,}",
        f"{speed.steps_done / stage.steps:.0%}" if speed else "0%",
        f"{stage.epochs:.1f}",
        f"{stage.image_size} px",
        stage.batch_size,
        f"{stage.ram:.2f}",
        f"{stage.mixup_alpha:.3f}",
        f"{stage.cutmix_alpha:.3f}",
        f"{stage.dropout_rate:.3f}",
        f"{speed.images_per_second:,.1f}" if timed else "–",
        f"{speed.megapixels_per_second:,.2f}" if timed else "–",
        duration(speed.seconds) if timed else "–",
    )


def duration(seconds: float) -> str:
    """Returns hours, minutes and seconds: "1:02:03"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def config_section(config: Config) -> Section:
    """What differs from the defaults, and all of it."""
    settings, defaults = flat(config), flat(Config())
    rows = [(key, settings[key], defaults[key]) for key in differing_keys(config, Config())]
    body = paragraph("Settings that are not the default: of the presets, the data or the flags.")
    body += table(("setting", "value", "default"), rows)
    body += folded(f"All {len(settings)} settings", table(("setting", "value"), settings.items()))
    return Section("config", "Config", body)


def flat(config: Config) -> dict:
    """Returns the settings by dotted key."""

    def walk(section, prefix):
        for field in dataclasses.fields(section):
            value, key = getattr(section, field.name), f"{prefix}{field.name}"
            if dataclasses.is_dataclass(value):
                yield from walk(value, f"{key}.")
            else:
                yield key, value

    return dict(walk(config, ""))


def environment_section(
    trained: Sequence[Mapping[str, str]], present: Mapping[str, str]
) -> Section:
    """Where the run was trained, if it is known, and where this page was made."""
    body = ""
    for number, environment in enumerate(trained, 1):
        title = "Trained with" + (f" ({number} of {len(trained)})" if len(trained) > 1 else "")
        body += f"<h3>{text(title)}</h3>" + table(("", ""), environment.items())
    body += "<h3>Evaluated, and this page made, with</h3>" + table(("", ""), present.items())
    return Section("environment", "Environment", body)
