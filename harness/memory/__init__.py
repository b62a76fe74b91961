"""Memory of a training, planned before it is spent. Nothing here imports torch but `trace`."""

from harness.memory.footprint import Footprint
from harness.memory.predict import Prediction, predict

__all__ = ["Footprint", "Prediction", "predict"]
