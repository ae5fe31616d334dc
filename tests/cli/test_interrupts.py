"""Ctrl-C and SIGTERM in every phase: a last line says what is safe and how to go on, and nothing else is said."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perturbify.cli import interrupts
from perturbify.cli.interrupts import Interrupted, safe

BOTH = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
NUMBERS = pytest.mark.parametrize(("number", "status"), BOTH, ids=["SIGINT", "SIGTERM"])


@NUMBERS
def test_only_the_innermost_block_prints_its_line(number, status, capsys):
    raised = KeyboardInterrupt if number == signal.SIGINT else lambda: SystemExit(143)
    with pytest.raises(Interrupted) as ended, safe("outer"), safe(lambda: "inner"):
        raise raised()
    assert ended.value.code == status
    assert capsys.readouterr() == ("", "Interrupted. inner\n")


def test_other_exceptions_pass_through(capsys):
    for error in (SystemExit(3), SystemExit("text"), ValueError()):
        with pytest.raises(type(error)), safe("line"):
            raise error
    assert capsys.readouterr() == ("", "")


def test_the_printed_line_cannot_control_the_terminal(capsys):
    with pytest.raises(Interrupted), safe("a\x1b[2Jb\nc"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "Interrupted. a\\x1b[2Jb\\nc\n"


PHASES = """
import signal, sys, time
from perturbify.cli import interrupts

def ready():
    print("ready", flush=True)
    time.sleep(60)

phase, behind = sys.argv[1], None
interrupts.listen()
if phase == "import":
    sys.path.insert(0, sys.argv[2])
    try:
        import slow
    except BaseException:
        print("swallowed")
elif phase == "work":
    with interrupts.safe("work"):
        ready()
elif phase == "stubborn":
    with interrupts.safe("stubborn"):
        try:
            ready()
        except BaseException:
            ready()
elif phase == "finished":
    interrupts.finished()
    print("ready", flush=True)
    time.sleep(1)
"""


@NUMBERS
@pytest.mark.parametrize("phase", ["import", "work", "stubborn", "finished"])
def test_a_process(phase, number, status, tmp_path):
    (tmp_path / "slow.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-c", PHASES, phase, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(2 if phase == "stubborn" else 1):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    out, said = process.communicate(timeout=20)
    expected = {"import": interrupts.NOTHING_LOST, "work": "work", "stubborn": "stubborn", "finished": ""}[phase]
    assert (out, said) == ("", f"Interrupted. {expected}\n" if expected else "")
    assert process.returncode == (status if expected else 0)


# Real commands


def interrupted(arguments, number, until, folder, after=0.0):
    """Starts a command, sends it a signal once it has said a line, or at once; its status, and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbify", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = ""
    while until is not None and not re.search(until, said):
        assert process.poll() is None, said
        said += process.stderr.readline()
    time.sleep(after)
    os.killpg(process.pid, number)  # as a terminal does
    out, rest = process.communicate(timeout=120)
    assert "Traceback" not in rest and "ignored" not in rest, rest
    assert (said + rest).count("Interrupted") == 1, said + rest
    return process.returncode, out, rest.splitlines()[-1]


TRAIN = ("finetune", "--recipe", "smoke", "-o", "run")
RESUME = "perturbify finetune --resume run"
CHECK = "perturbify check run"


@pytest.mark.parametrize(
    ("number", "status", "until", "after", "line"),
    [
        (*BOTH[0], None, 1.5, interrupts.NOTHING_LOST),  # it imports
        (*BOTH[1], r"^run: run$", 0.0, interrupts.NOTHING_LOST),  # it wraps
        (*BOTH[0], "epoch 1/2: ", 0.0, f"Resume from the last saved state: {RESUME}"),
        (*BOTH[1], "checked: ", 0.0, f"The model is finished and saved in run/model.safetensors; to check it: {CHECK}"),
    ],
    ids=["import", "wrapping", "training", "check"],
)
def test_training(number, status, until, after, line, folder):
    pattern = until and re.compile(until, re.MULTILINE)
    found = interrupted(TRAIN, number, pattern, folder, after)
    assert found == (status, "", f"Interrupted. {line}")
    assert (folder / "run" / "model.safetensors").exists() == (until == "checked: ")
    assert not list((folder / "run").glob(".*")) if (folder / "run").exists() else True
    assert (folder / "run").exists() == (until in ("epoch 1/2: ", "checked: "))


def test_check(trained, folder):
    found = interrupted(("check", trained.model, "-o", "out"), signal.SIGTERM, "checked: ", folder)
    line = "What is done is kept in out: the same command with --resume goes on."
    assert found == (143, "", f"Interrupted. {line}")
    assert [p.name for p in Path("out").iterdir()] == ["records-0.jsonl"]
    found = interrupted(("check", trained.model, "-o", "out", "--resume"), signal.SIGINT, "checked: ", folder)
    assert found == (130, "", "Interrupted. What is done is kept in out: the same command goes on.")


def test_convert(folder):
    arguments = ("convert", "cifar_resnet20", "--num-classes", "10", "-o", "out.safetensors")
    assert interrupted(arguments, signal.SIGTERM, None, folder, 1.5) == (
        143,
        "",
        f"Interrupted. {interrupts.NOTHING_LOST}",
    )
    assert not [*folder.glob("*.safetensors"), *folder.glob(".out*")]
