"""ultralytics: the networks of the bundled YAML files, each in its smallest size.

Not included: yolo11-cls-resnet18, whose file requests torchvision weights.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from perturbify.census.libraries.network import Network, images

ultralytics: Any = importlib.import_module("ultralytics")
tasks: Any = importlib.import_module("ultralytics.nn.tasks")
yaml: Any = importlib.import_module("ultralytics.utils").YAML

_FILES = Path(ultralytics.__file__).parent / "cfg" / "models"
_CLASSES = {
    "Classify": "ClassificationModel",
    "Depth": "DepthModel",
    "OBB": "OBBModel",
    "OBB26": "OBBModel",
    "Pose": "PoseModel",
    "Pose26": "PoseModel",
    "RTDETRDecoder": "RTDETRDetectionModel",
    "Segment": "SegmentationModel",
    "Segment26": "SegmentationModel",
    "SemanticSegment": "SemanticSegmentationModel",
    "WorldDetect": "WorldModel",
    "YOLOEDetect": "YOLOEModel",
    "YOLOESegment": "YOLOESegModel",
    "YOLOESegment26": "YOLOESegModel",
}
"""The network's class, by its last layer; DetectionModel for all others."""
_DOWNLOAD = ("yolo11-cls-resnet18",)


@cache
def names() -> list[str]:
    """``yolo11n``, ``yolov8n-seg`` and so on."""
    return sorted(_smallest(path) for path in _FILES.rglob("*.yaml") if path.stem not in _DOWNLOAD)


def build(name: str) -> Network:
    """Builds one for three classes and images of 64 × 64."""
    layers = tasks.yaml_model_load(f"{name}.yaml")
    kind = getattr(tasks, _CLASSES.get(layers["head"][-1][-2], "DetectionModel"))
    arguments = {"nc": 3}
    return Network(kind(f"{name}.yaml", verbose=False, **arguments), (images(3, 64, 64),), arguments)


def _smallest(path: Path) -> str:
    """The name of a file's network, with the letter of its smallest size if it has several."""
    scales = yaml.load(path).get("scales")
    if not scales:
        return path.stem
    return re.sub(r"(yoloe?-?v?\d+)(?![a-z\d])", rf"\g<1>{next(iter(scales))}", path.stem)
