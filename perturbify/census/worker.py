"""A worker process of the census: reads model names from stdin, writes a row for each to stdout.

    python -m perturbify.census.worker MEMORY

A model that crashes, or is killed for its memory use, ends only its own process.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

import torch

from perturbify.census.examination import TooLarge, examine


def main() -> None:
    """Examines models until stdin ends."""
    memory = int(sys.argv[1])
    # Keeps libraries' output from mixing with the rows.
    rows = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            row = examine(line.strip(), memory=memory).to_dict()
        except TooLarge as error:
            row = {"name": line.strip(), "needs": error.bytes}
        print(json.dumps(row), file=rows, flush=True)


if __name__ == "__main__":
    main()
