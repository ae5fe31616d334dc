"""Opens thousands of corrupt or malicious files: ``python -m benchmarks.fuzz --files 100000 --seed 0 -o OUTPUT.json``.

Honest checkpoints, states and recipes are changed at random, many of them resealed as an attacker would, and opened as
users do: ``perturbify.load``, ``inspect``, ``recipes validate``, ``show``, the state's reader. Each must be refused in
one sentence, or read correctly; none may cost more than 2 seconds and 200 MB above the honest file. Exits with 1 if one
fails. File ``i`` of a seed is always the same: ``--only I`` runs only that one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz.judge import GOOD, honest_files
from benchmarks.fuzz.worker import start, take
from perturbify.checks.run import machine


def run(files: int, seed: int, workers: int, only: int | None = None) -> dict[str, Any]:
    """Makes and judges ``files`` files.

    Returns:
        Counts of outcomes by kind, the worst cost, and the failures.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = (Path(folder), *honest_files(Path(folder)), seed)
        numbers = range(files) if only is None else [only]
        started, counts, wrong = time.monotonic(), Counter[tuple[str, str]](), []
        seconds = megabytes = 0.0
        with multiprocessing.get_context("spawn").Pool(workers, start, given) as pool:
            for done, row in enumerate(pool.imap_unordered(take, numbers, chunksize=20), 1):
                counts[row["kind"], row["found"]] += 1
                seconds, megabytes = max(seconds, row["seconds"]), max(megabytes, row["megabytes"])
                if row["found"] not in GOOD:
                    wrong.append(row)
                    print(f"\n{row['number']}, a {row['kind']}: {row['found']}. {row['more']}", file=sys.stderr)
                if done % 100 == 0 or done == len(numbers):
                    rate = done / (time.monotonic() - started)
                    left = (len(numbers) - done) / rate / 60
                    said = f"\r{done} of {len(numbers)}, {len(wrong)} wrong, {left:.0f} min left "
                    print(said, end="", file=sys.stderr, flush=True)
    kinds = sorted({kind for kind, _ in counts})
    return {
        "files": len(numbers),
        "seed": seed,
        "found": {k: {f: n for (kind, f), n in sorted(counts.items()) if kind == k} for k in kinds},
        "wrong": len(wrong),
        "first wrong": wrong[:50],
        "longest seconds": round(seconds, 2),
        "most megabytes above the honest files": round(megabytes, 1),
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    """Reads the command line, runs, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="only this file")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    found = run(given.files, given.seed, given.workers, given.only)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = json.dumps({"date": date, "machine": machine(torch.device("cpu")), **found}, indent=1, ensure_ascii=False)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
