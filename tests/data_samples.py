"""Images and labels that tests write into files."""

import numpy as np

Arrays = dict[str, np.ndarray]


def honest(n: int = 12, shape: tuple[int, ...] = (6, 5, 3)) -> Arrays:
    """Three classes; ``n`` training images and four for the test."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (n, *shape), dtype=np.uint8),
        "y_train": np.arange(n) % 3,
        "x_test": rng.integers(0, 256, (4, *shape), dtype=np.uint8),
        "y_test": np.arange(4) % 3,
    }
