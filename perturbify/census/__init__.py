"""Census: does the surgery reach every convolution call of every model of timm, torchvision and other libraries?

One model at a time is built, its calls are counted by a dispatch mode that knows nothing of the surgery, and the
surgery is held against that count. :func:`take` does so for many of them, in processes of their own.
"""

from perturbify.census.examination import Row, examine
from perturbify.census.pool import Progress, take
from perturbify.census.selection import model_names, sample

__all__ = ["Progress", "Row", "examine", "model_names", "sample", "take"]
