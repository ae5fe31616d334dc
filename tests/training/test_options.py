"""What a run can do beside: accumulate gradients, average its networks, write for TensorBoard, keep others out."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import perturbify
from perturbify import methods
from perturbify.errors import TrainingError
from perturbify.ranks import Ranks
from perturbify.training import launch
from perturbify.training.folder import RunFolder
from perturbify.training.phases import JOINT_STEP, W_STEP, WARM_UP
from perturbify.training.prepare import prepare
from perturbify.training.step import Trainer


def without_norm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


# Accumulated gradients


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_accumulated_gradients_match_the_whole_batch(parts, data, make_recipe):
    """Without noise and random starts: what is drawn depends on the parts."""
    found = []
    for accumulate in (1, parts):
        settings = make_recipe(
            train__batch_size=17, train__accumulate=accumulate, attack__random_start=False, attack__from_epoch=0
        )
        method = methods.get("learn2perturb")
        trainer = Trainer(prepare(without_norm(), settings, data, method).train(), settings, method)
        trainer.set_epoch(0)
        x, y = next(data.train.batches(17))
        figures = trainer.step(x, y, WARM_UP, 0)
        found.append((figures.values, [p.grad for p in trainer.weights]))
    (values, whole), (others, summed) = found
    assert values[2] > 0
    torch.testing.assert_close(values, others)
    for a, b in zip(whole, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_no_part_has_only_one_image(make_learner):
    """Batch norm has no variance over it."""
    trainer, x, y = make_learner(train__batch_size=5, train__accumulate=5)
    assert [len(part) for part in trainer._parts(x)] == [3, 2]
    trainer.step(x, y, W_STEP, 1)


# The moving average


def test_the_average_follows_the_network(make_learner):
    trainer, x, y = make_learner(train__ema_decay=0.75)
    expected = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    for _ in range(3):
        trainer.step(x, y, JOINT_STEP, 1)
        for name, value in trainer.model.state_dict().items():
            old = expected[name]
            expected[name] = 0.75 * old + 0.25 * value if value.is_floating_point() else value.clone()
    averages = trainer.average.network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(averages[name], value, msg=name)
    assert not trainer.average.network.training


def test_the_average_is_resumed_saved_and_loaded(start, continue_run, build, tmp_path):
    from networks.runs import Killed

    whole = start("whole", train__ema_decay=0.9)
    with pytest.raises(Killed):
        start("killed", train__ema_decay=0.9, stop_after=8)
    continue_run("killed")
    averages = [perturbify.load(tmp_path / name / "average.safetensors", model=build()) for name in ("whole", "killed")]
    for a, b in zip(*(network.state_dict().values() for network in averages), strict=True):
        assert torch.equal(a, b)
    last = whole.model.state_dict()
    assert not all(torch.equal(last[name], value) for name, value in averages[0].state_dict().items())
    assert any(p.enabled for _, p in perturbify.perturbations(averages[0]))


def test_without_a_decay_there_is_no_average(start, tmp_path):
    start("run")
    assert not (tmp_path / "run" / "average.safetensors").exists()


# Batch norm over all processes


def test_synchronised_batch_norm_needs_gpus(build, data, make_recipe):
    settings = make_recipe(train__sync_batchnorm=True)
    network = prepare(build(), settings, data, methods.get("learn2perturb"))
    cpu = torch.device("cpu")
    with pytest.raises(TrainingError, match=r"sync_batchnorm needs GPUs, and this is cpu\."):
        launch._place(network, cpu, settings, Ranks(0, 2))
    assert launch._place(network, cpu, settings, Ranks()) is network


# TensorBoard


def test_tensorboard_reads_the_metrics(start, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = start("run", train__tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"clean_loss", "adversarial_accuracy", "theta/mean", "lr/weights"} <= set(events.Tags()["scalars"])
    assert any(tag.startswith("theta/sites/") for tag in events.Tags()["scalars"])
    read = [(e.step, e.value) for e in events.Scalars("clean_loss")]
    assert read == [(m["epoch"], pytest.approx(m["clean_loss"])) for m in result.metrics]


def test_a_missing_tensorboard_is_reported_in_one_sentence(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"needs TensorBoard.*perturbify\[tensorboard\]"):
        start("run", train__tensorboard=True)


# Two at once

HOLD = """
import sys
from pathlib import Path
from perturbify.training.folder import RunFolder
with RunFolder(Path(sys.argv[1])).busy():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked on POSIX systems")
def test_two_processes_cannot_train_in_one_folder(start, continue_run, tmp_path):
    start("run")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=r"Another process is already training in .*run"):
            continue_run("run")
    finally:
        other.kill()
        other.communicate()
    continue_run("run")
    with RunFolder(tmp_path / "run").busy():  # nothing is left behind
        pass
