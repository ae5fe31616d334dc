"""Records what a person sees in a terminal: ``python -m benchmarks.sessions [SIZE ...]`` writes docs/sessions.md.

Each command runs in pseudo-terminals of 80×24 and of 100×35 characters. The page shows, for each, a progress bar from
the middle of the work, and what is left when the command has ended.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from benchmarks.screens import seen

PAGE = Path(__file__).parents[1] / "docs" / "sessions.md"
SIZES = ("80x24", "100x35")
BAR = re.compile(r" \[\d\d:\d\d, .* left")
SHORT = ("--set", "train.epochs=4", "--set", "train.warmup_epochs=1")
COMMANDS = (
    ("convert", "cifar_resnet20", "--data", "digits", "-o", "digits.noisy.safetensors"),
    ("finetune", "--recipe", "digits", "--model", "digits.noisy.safetensors", "-o", "noisy", "--no-check", *SHORT),
    ("finetune", "--recipe", "digits", "--method", "vanilla", "-o", "plain", "--no-check", "-q", *SHORT),
    ("check", "noisy", "--against", "plain/model.safetensors", "-o", "report"),
    ("compare", "noisy", "plain", "--images", "64", "--data", "digits"),
)
HEAD = """# Terminal sessions

What four commands look like, as `python -m benchmarks.sessions` recorded them in pseudo-terminals of two sizes. The
bars are from the middle of the work; when a command ends they are gone. The training is short, so the figures say
nothing.
"""


def main() -> None:
    """Records all commands at all sizes."""
    parts = [HEAD]
    for size in sys.argv[1:] or SIZES:
        columns, lines = map(int, size.split("x"))
        parts.append(f"\n## {columns} columns, {lines} lines\n")
        with tempfile.TemporaryDirectory() as folder:
            for command in COMMANDS:
                print(size, *command, file=sys.stderr, flush=True)
                status, text, screens, _ = seen(*command, columns=columns, lines=lines, cwd=folder, timeout=1200)
                if "-q" not in command:
                    parts.append(_session(command, status, text, screens, columns))
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _session(command: tuple[str, ...], status: int, text: list[str], screens: list[list[str]], columns: int) -> str:
    working = [line for screen in screens for line in screen if BAR.search(line)]
    bar = [working[len(working) // 2], "…"] if working else []
    shown = "\n".join([*bar, *text]).strip()
    too_long = [line for line in text if len(line) > columns]
    assert not too_long, too_long
    return f"`perturbify {' '.join(command)}` (exit status {status})\n\n```text\n{shown}\n```\n"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
