"""Several processes train one network: alike in θ and W, each with images and noise of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import together

from perturbify.errors import TrainingError
from perturbify.training.run import _steps_per_epoch


def assert_alike(one, other):
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.mark.parametrize("images", [8, 7], ids=["evenly", "unevenly"])
def test_half_batches_together_give_the_whole_gradient(images, tmp_path):
    alone = together.run(together.one_step, tmp_path, ["weights"], images, world=1)[0]
    first, second = together.run(together.one_step, tmp_path, ["weights"], images)
    assert_alike(first, second)
    assert alone.keys() == first.keys()
    for name, gradient in alone.items():
        assert torch.allclose(first[name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max()), name


def test_warm_up_and_alternation(tmp_path):
    first, second = together.run(together.whole_run, tmp_path, 3)
    assert_alike(first["state"], second["state"])
    thetas = [v for k, v in first["state"].items() if k.endswith("theta")]
    assert all((theta != 0.25).any() for theta in thetas), "θ has learned"
    # No draw of one process is a draw of the other.
    assert len(first["drawn"]) > 20
    draws = torch.cat([first["drawn"], second["drawn"]])
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_metrics_cover_all_images(tmp_path):
    first, second = together.run(together.whole_run, tmp_path, 3)
    # 26 images in batches of 6: the last two would be one for each process, and are left out.
    assert [m["images"] for m in first["metrics"]] == [24] * 3
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == first["metrics"]
    for ours, theirs in zip(first["metrics"], second["metrics"], strict=True):
        timeless = ({k: v for k, v in m.items() if "second" not in k} for m in (ours, theirs))
        assert next(timeless) == next(timeless)


@pytest.mark.parametrize(("before", "after", "step"), [(2, 1, 2), (1, 2, 2), (1, 2, 3)])
def test_resuming_with_another_number_of_processes(before, after, step, tmp_path):
    """One process takes five steps an epoch, two take four: after the fourth they are at its end."""
    together.run(together.whole_run, tmp_path, 3, (1, step), world=before)
    found = together.run(together.continue_run, tmp_path, world=after)
    assert [m["epoch"] for m in found[0]["metrics"]] == [0, 1, 2]
    assert_alike(found[0]["state"], found[-1]["state"])


def test_the_same_two_processes_resume_exactly(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = together.run(together.whole_run, tmp_path / "whole", 3)[0]
    together.run(together.whole_run, tmp_path, 3, (1, 3))
    assert_alike(together.run(together.continue_run, tmp_path)[0]["state"], whole["state"])


def test_a_batch_too_small_to_share_is_refused():
    with pytest.raises(TrainingError, match="A batch of 5 images cannot be divided among 3 processes"):
        _steps_per_epoch(100, 5, 3)
    assert _steps_per_epoch(101, 10, 1) == 10 and _steps_per_epoch(102, 10, 1) == 11
    assert _steps_per_epoch(103, 10, 2) == 10 and _steps_per_epoch(104, 10, 2) == 11


def test_torchrun(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "perturbify")
    command = ("finetune", "--recipe", "smoke", "--set", "check.images=20", "--json")
    done = subprocess.run([sys.executable, *torchrun, *command], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr.decode()  # torchrun's 1 stands for our 3
    said = json.loads(done.stdout)
    assert (tmp_path / said["model"]).is_file() and [p.name for p in Path(tmp_path, "runs").iterdir()] == [
        Path(said["run"]).name
    ]
    assert said["report"]["n"] == 20
    assert done.stderr.decode().count("epoch 1/") == 1
