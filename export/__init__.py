"""A trained model as something that serves, and the proof that it still says the same."""

from export.predict import load_serving, predict_files
from export.saved_model import export_saved_model, verify
from export.serving import ServingModule

__all__ = ["ServingModule", "export_saved_model", "load_serving", "predict_files", "verify"]
