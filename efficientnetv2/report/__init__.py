"""A page that shows a run: how it was trained, what it learnt, and where it errs."""

from efficientnetv2.report.environment import save_environment, saved_environments
from efficientnetv2.report.findings import Findings, evaluate_run
from efficientnetv2.report.gradcam import grad_cam
from efficientnetv2.report.history import History, is_finished, read_history
from efficientnetv2.report.page import Run, write_report

__all__ = [
    "Findings",
    "History",
    "Run",
    "evaluate_run",
    "grad_cam",
    "is_finished",
    "read_history",
    "save_environment",
    "saved_environments",
    "write_report",
]
