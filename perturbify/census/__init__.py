"""Census: does the surgery reach every convolution call of every model of timm, torchvision and other libraries?

Each model is built, its calls are counted by a dispatch mode that is independent of the surgery, and the surgery is
checked against that count. :func:`take` does so for many models, in separate processes.
"""

from perturbify.census.examination import Row, examine
from perturbify.census.pool import Progress, take
from perturbify.census.selection import model_names, sample

__all__ = ["Progress", "Row", "examine", "model_names", "sample", "take"]
