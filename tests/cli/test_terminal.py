"""What a person sees in a terminal: no word is broken, no bar is left behind, errors have colours."""

import pytest

from benchmarks.screens import seen
from benchmarks.sessions import BAR
from perturbify.cli import terminal
from perturbify.cli.main import COMMANDS, run
from perturbify.text import table

SIZES = pytest.mark.parametrize(("columns", "lines"), [(80, 24), (100, 35), (40, 20)])


def broken(lines, columns):
    """Lines that go on beyond the terminal's edge; a word alone may."""
    return [line for line in lines if len(line) > columns and " " in line.strip()]


@SIZES
def test_training_and_its_check(columns, lines, tmp_path):
    status, text, screens, _ = seen(
        "finetune", "--recipe", "smoke", "-o", "run", columns=columns, lines=lines, cwd=tmp_path
    )
    assert status == 4
    assert text[0].startswith("recipe: smoke")
    assert broken(text, columns) == []
    bars = [line for screen in screens for line in screen if BAR.search(line)]
    assert any("step" in line or columns < 60 for line in bars) and len(bars) > 5
    assert all(len(line) < columns for line in bars)
    assert not any(BAR.search(line) for line in text)
    said = "\n".join(text)
    assert said.index("after training: a check of") < said.index("epoch 1/2: ")
    assert ("left out: " in said) == (columns < 80)


@SIZES
def test_tables_of_files(columns, lines, trained, tmp_path):
    for arguments in (["inspect", trained.model], ["recipes", "ls"], ["convert", "cifar_resnet20", "--dry-run"]):
        status, text, _, _ = seen(*arguments, columns=columns, lines=lines, cwd=tmp_path)
        assert status == 0
        assert broken(text, columns) == []


def test_wide_leaves_nothing_out(trained, tmp_path):
    _, narrow, *_ = seen("inspect", trained.model, columns=40, cwd=tmp_path)
    _, wide, *_ = seen("inspect", trained.model, "--wide", columns=40, cwd=tmp_path)
    assert "left out: std" in "\n".join(narrow) and "left out" not in "\n".join(wide)


COLOUR = b"\x1b[31m"


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_errors_are_red_where_colours_are(environment, coloured, tmp_path):
    status, text, _, written = seen("inspect", "nowhere.safetensors", cwd=tmp_path, **environment)
    assert status == 1 and "Error: There is no file nowhere.safetensors." in text
    assert (COLOUR in written) == coloured


def test_no_bar_and_no_colour_in_a_pipe(command, trained):
    done = command("check", trained.model, "--images", "4", "--attacks", "fgsm")
    assert "checked: FGSM" in done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stdout + done.stderr


def test_columns_are_dropped_least_first():
    rows = [("name", "first", "second"), ("a" * 20, "b" * 20, "c" * 20)]
    assert table(rows, 64, ["second", "first"]) == table(rows)
    assert table(rows, 63, ["second", "first"]).splitlines()[-1] == "left out: second (--wide shows all)"
    assert table(rows, 30, ["second", "first"]).endswith("left out: second, first\n(--wide shows all)")


def test_cells_are_wrapped_between_words():
    said = table([("name", "what"), ("a-long-name/with/parts", "some words that go on and on")], 44)
    assert max(map(len, said.splitlines())) <= 44
    assert "a-long-name/with/parts" in said


def test_lines_are_wrapped_between_words():
    assert terminal.wrapped("one two three\nfour", 8) == "one two\n  three\nfour"


def test_every_help_in_full_sentences(capsys):
    for name in COMMANDS:
        assert run([name, "--help"]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80, name
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    commands = said.partition("Commands:\n")[2].splitlines()
    assert len(commands) > 10 and all(line.endswith(".") and not line.endswith("..") for line in commands)
    assert max(map(len, said.splitlines())) <= 80
