"""The command itself: help, speed, exit statuses, what goes to stdout and what to stderr."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perturbify import __version__
from perturbify.cli import convert
from perturbify.cli.main import COMMANDS, run
from perturbify.errors import CheckpointError


@pytest.mark.parametrize(
    "command", [["inspect", "a" * 300], ["plot", "a" * 300], ["recipes", "cp", "smoke", "a" * 300]]
)
def test_a_name_that_no_file_can_have(command, capsys):
    assert run(command) == 1
    said = capsys.readouterr().err
    assert "too long" in said and "mistake" not in said


def test_an_empty_argument_is_refused(capsys):
    assert run(["check", ""]) == 2
    assert "An argument is empty." in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_under_a_stream(stream):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "perturbify", "recipes", "ls" if stream == "stdout" else "lx"],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full},
            text=True,
            check=False,
        )
    assert "Traceback" not in f"{done.stdout}{done.stderr}" and "mistake" not in f"{done.stdout}{done.stderr}"
    assert done.returncode == (1 if stream == "stdout" else 2)


def test_help_is_fast_and_names_every_command(command):
    seconds = []  # of the processor, for other tests may keep it busy meanwhile
    for _ in range(3):
        started = os.times()
        done = command("--help")
        ended = os.times()
        seconds.append(ended.children_user + ended.children_system - started.children_user - started.children_system)
        assert done.returncode == 0
    assert min(seconds) < 0.5
    assert done.stderr == ""
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help(name, capsys):
    assert run([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: perturbify {name} ")
    assert err == ""
    if name != "recipes":
        assert "--json" in out
        assert "-q, --quiet" in out


def test_help_and_refusals_do_not_import_torch():
    code = (
        "import sys; from perturbify.cli.main import run; run(sys.argv[1:]);"
        "print(sorted({'torch', 'timm', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["--help"], *([name, "--help"] for name in COMMANDS), ["recipes", "ls"], ["finetune"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == "[]", arguments


def test_running_as_a_module_and_its_version(command, tmp_path):
    done = command("--version", module=True, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == f"perturbify, version {__version__}\n"


def test_no_command_given(capsys):
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: perturbify" in err


def test_an_unknown_command_and_an_unknown_option(capsys):
    assert run(["chek"]) == 2
    assert "Error: There is no command 'chek'. Did you mean 'check'?" in capsys.readouterr().err
    assert run(["convert", "resnet18", "--dryrun"]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_a_real_command_from_another_directory(command, tmp_path):
    done = command("convert", "cifar_resnet20", "-q", "--json", "--grain", "channel", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert len(said["sites"]) == 19
    assert [p.name for p in tmp_path.iterdir()] == [said["written"]] == ["cifar_resnet20.perturbed.safetensors"]


def test_a_terminal_with_a_limited_encoding(command, trained, tmp_path):
    done = command("inspect", trained.model, cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "cifar_resnet20" in done.stdout


def test_internal_errors_take_one_line_traceback_on_request(monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise ZeroDivisionError("of ours\nover two lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert.models, "create", fail)
    monkeypatch.delenv("PERTURBIFY_DEBUG", raising=False)
    assert run(["convert", "resnet18"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:2] == ["building: resnet18", "Error: ZeroDivisionError: of ours over two lines"]
    assert "or in a plug-in of yours; PERTURBIFY_DEBUG=1" in err.splitlines()[2]
    monkeypatch.setenv("PERTURBIFY_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["convert", "resnet18"])


def test_debug_also_shows_the_traceback_of_known_errors(monkeypatch, capsys):
    monkeypatch.setenv("PERTURBIFY_DEBUG", "0")
    assert run(["inspect", "nowhere.safetensors"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Error: There is no file nowhere.safetensors.\n")
    monkeypatch.setenv("PERTURBIFY_DEBUG", "1")
    with pytest.raises(CheckpointError):
        run(["inspect", "nowhere.safetensors"])


def test_interrupted(monkeypatch, capsys, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert.models, "create", interrupt)
    assert run(["convert", "resnet18"]) == 130
    said = "Interrupted. No file is half written; the same command starts over."
    assert capsys.readouterr().err.splitlines() == ["building: resnet18", "", said]
