"""A whole run: what its folder holds, what it reports, what it refuses, and what it leaves alone."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import perturbify
from perturbify import recipe as recipes
from perturbify.data.bundle import assemble
from perturbify.data.split import MemorySplit
from perturbify.errors import Diverged, OutputExists, PerturbifyError, TrainingError
from perturbify.training import finetune, state
from perturbify.training.folder import RunFolder


@pytest.fixture
def train(build, data, make_recipe, tmp_path):
    def train(folder="run", *, model=None, force=False, on_step=None, images=None, **changes):
        return finetune(
            build() if model is None else model,
            make_recipe(**changes),
            tmp_path / folder,
            data=images or data,
            device="cpu",
            force=force,
            on_step=on_step,
        )

    return train


# The folder


def test_the_folder_holds_the_run(train, make_recipe, data):
    result = train()
    folder = result.folder
    present = {p.name for p in folder.path.iterdir()}
    states = {"state.safetensors", "state.before.safetensors"}
    assert present == states | {"perturbify-run.json", "recipe.toml", "metrics.jsonl", "model.safetensors", "README.md"}
    assert recipes.load(folder.recipe) == recipes.from_toml(recipes.to_toml(make_recipe()), "recipe")
    assert result.metrics == folder.read_metrics()
    assert [m["epoch"] for m in result.metrics] == [0, 1, 2]
    header = perturbify.checkpoint.read_header(folder.model)
    assert (header.method, header.classes, header.trained["epochs"]) == ("learn2perturb", list(data.classes), 3)
    assert "learn2perturb" in folder.card.read_text(encoding="utf-8")


def test_the_result_matches_the_saved_file(train, build, data):
    result = train()
    assert not result.model.training
    loaded = perturbify.load(result.folder.model, model=build())
    x, _ = next(data.test.batches(9))
    for model in (result.model, loaded):
        assert all(p.enabled for _, p in perturbify.perturbations(model))
        assert not torch.equal(model(x), model(x))
    with torch.no_grad(), perturbify.noise(result.model, False), perturbify.noise(loaded, False):
        torch.testing.assert_close(result.model(x), loaded(x))


def test_the_model_file_holds_no_local_paths(train, tmp_path):
    result = train(data__root=str(tmp_path))
    with safe_open(result.folder.model, "pt") as file:
        metadata = json.dumps(file.metadata())
    assert str(tmp_path) not in metadata
    assert not re.findall(r"(?<![\w.:/])/(?:tmp|home|root|work|var|Users)\b", metadata)
    assert str(tmp_path) not in result.folder.card.read_text(encoding="utf-8")
    assert str(tmp_path) in result.folder.recipe.read_text(encoding="utf-8")  # which --resume needs, and nobody else


def test_an_existing_run_is_replaced_only_when_forced(train):
    first = train(train__epochs=2)
    before = {p.name: p.read_bytes() for p in first.folder.path.iterdir()}
    with pytest.raises(OutputExists, match=r"already holds a run.*--resume.*--force"):
        train(seed=1)
    assert {p.name: p.read_bytes() for p in first.folder.path.iterdir()} == before
    first.folder.report.write_text("{}")
    second = train(seed=1, train__epochs=1, train__warmup_epochs=1, force=True)
    assert not second.folder.report.exists()
    assert [m["epoch"] for m in second.folder.read_metrics()] == [0]
    assert second.folder.model.read_bytes() != before["model.safetensors"]


def test_a_folder_with_anything_else_is_never_touched(train, tmp_path):
    (tmp_path / "project").mkdir()
    readme = tmp_path / "project" / "README.md"
    readme.write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputExists, match="not empty and holds no run"):
            train("project", force=force)
    assert readme.read_text() == "mine"


def test_force_keeps_the_old_run_until_ready(train, data):
    """The old run goes only when the new one is ready to start."""
    first = train(train__epochs=1)
    before = {p.name: p.read_bytes() for p in first.folder.path.iterdir()}
    with pytest.raises(TrainingError, match="head"):
        train(model=torch.nn.Sequential(torch.nn.Conv2d(3, 5, 6), torch.nn.Flatten()), force=True)
    assert {p.name: p.read_bytes() for p in first.folder.path.iterdir()} == before


def test_a_folder_that_cannot_be_written(train, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputExists, match=r"file is a file\. Name a folder"):
        train("file")
    with pytest.raises(PerturbifyError, match=r"cannot be written to: .*file is a file"):
        train("file/below")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PerturbifyError, match=r"cannot be written to: .* is read-only"):
        train("deep/down/run")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_folder_is_refused_before_any_work(train, tmp_path):
    train(train__epochs=1)
    with pytest.raises(OutputExists):
        train(model=nn.Identity())


# What it says


def test_progress_and_metrics_report_the_work_done(train):
    seen = []
    result = train(on_step=seen.append, train__epochs=3, train__warmup_epochs=1)
    assert [(p.epoch, p.step) for p in seen] == [(e, s) for e in range(3) for s in range(5)]  # 25 of 26 images
    assert all(p.epochs == 3 and p.steps == 5 and p.seconds_left >= 0 for p in seen)
    assert seen[-1].seconds_left == 0
    assert [p.phase for p in seen] == ["warm-up"] * 5 + ["joint step"] * 10
    assert [p.epoch_summary for p in seen if p.epoch_summary] == result.metrics
    for metrics in result.metrics:
        assert metrics["steps"] == Counter(p.phase for p in seen if p.epoch == metrics["epoch"])
        assert metrics["images"] == 25
        assert 0 <= metrics["clean_accuracy"] <= 1
        losses = [p.clean_loss for p in seen if p.epoch == metrics["epoch"]]
        assert metrics["clean_loss"] == pytest.approx(sum(losses) / 5)
    sites = {"0": 0.25, "4": 0.25}
    theta = result.metrics[0]["theta"]
    relative = theta.pop("relative")
    assert theta == {"mean": 0.25, "min": 0.25, "max": 0.25, "sites": sites}
    assert relative.keys() == sites.keys() and all(0.05 < ratio < 5 for ratio in relative.values())
    theta = torch.cat([p.theta.detach().flatten() for _, p in perturbify.perturbations(result.model)])
    assert result.metrics[-1]["theta"]["mean"] == pytest.approx(theta.mean().item())
    for site, perturbation in perturbify.perturbations(result.model):
        assert result.metrics[-1]["theta"]["sites"][site] == pytest.approx(perturbation.theta.mean().item())


def test_methods_without_noise_or_attack(train):
    vanilla = train("vanilla", method="vanilla", train__epochs=1)
    assert vanilla.metrics[0]["theta"] is None
    assert vanilla.metrics[0]["adversarial_loss"] is not None
    plain = train("none", method="none", train__epochs=1)
    assert plain.metrics[0]["adversarial_loss"] is None
    assert plain.metrics[0]["steps"] == {"plain": 5}
    assert not list(perturbify.perturbations(plain.model))


@pytest.mark.parametrize(("batch_size", "steps", "used"), [(25, 1, 25), (24, 2, 26), (26, 1, 26), (100, 1, 26)])
def test_a_last_batch_of_one_image_is_skipped(batch_size, steps, used, train):
    result = train(train__batch_size=batch_size, train__epochs=1)
    assert sum(result.metrics[0]["steps"].values()) == steps
    assert result.metrics[0]["images"] == used


def test_a_single_image_is_trained_on(train):
    assert train(data__train_images=1, train__epochs=1).metrics[0]["images"] == 1


# What it leaves alone


def test_the_callers_random_numbers_and_network_are_untouched(train, build):
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    train(model=model, train__epochs=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_seed_alone_determines_the_run(train):
    torch.manual_seed(1)
    one = train("one").model.state_dict()
    torch.manual_seed(2)
    other = train("other").model.state_dict()
    different = train("different", seed=1).model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], different[key]) for key in one)


# Divergence


def all_finite(path):
    saved = state.read(path)
    return all(bool(tensor.isfinite().all()) for tensor in saved.tensors.values())


def test_divergence_keeps_the_last_good_state(train, tmp_path):
    with pytest.raises(Diverged, match=r"diverged in epoch \d+, step \d+: .* no longer finite\..*--set optimizer\.lr"):
        train(optimizer__lr=1e6, train__epochs=4)
    kept = tmp_path / "run" / "state.safetensors"
    assert all_finite(kept)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("step", [2, 4])
def test_broken_weights_are_never_saved(step, train, tmp_path, monkeypatch):
    """The loss of that step is still fine; in the epoch's last step no other loss would follow before the save."""
    update = perturbify.training.step.Trainer.step

    def breaks(self, x, y, phase, epoch, **more):
        result = update(self, x, y, phase, epoch, **more)
        breaks.calls += 1
        if breaks.calls == 5 + step + 1:
            with torch.no_grad():
                self.weights[0].fill_(float("nan"))
        return result

    breaks.calls = 0
    monkeypatch.setattr(perturbify.training.step.Trainer, "step", breaks)
    with pytest.raises(
        Diverged, match=rf"epoch 1, step {step}: a weight or θ .*last good state \(epoch 1, step {step}\)"
    ):
        train(train__save_minutes=1e-9)
    kept = tmp_path / "run" / "state.safetensors"
    assert all_finite(kept)
    assert (state.read(kept).position.epoch, state.read(kept).position.step) == (1, step)
    assert [m["epoch"] for m in RunFolder(tmp_path / "run").read_metrics()] == [0]


def test_no_such_device(train):
    for name in ("cuda:99", "gpu"):
        with pytest.raises(TrainingError, match=f"no device '{name}' here.*--device cpu"):
            finetune(nn.Identity(), "smoke", "nowhere", device=name)


@pytest.mark.parametrize(
    ("fits", "said"), [(3, "A step on 2 does: --set train.batch_size=2"), (0, "Lower train.batch_size")]
)
def test_out_of_memory_suggests_a_batch_size(fits, said, train, monkeypatch):
    step = perturbify.training.step.Trainer.step

    def bounded(self, x, y, *rest, **more):
        if len(y) > fits:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, x, y, *rest, **more)

    monkeypatch.setattr(perturbify.training.step.Trainer, "step", bounded)
    with pytest.raises(TrainingError, match="A step on 5 images does not fit into the memory of cpu") as raised:
        train()
    assert said in raised.value.hint


def test_a_dataset_with_too_few_classes(train):
    """Labels are checked when the data are put together; the head is checked against them before training."""
    pixels = torch.zeros(8, 3, 6, 6, dtype=torch.uint8)
    two = [MemorySplit(pixels, torch.arange(8) % 2)] * 2
    with pytest.raises(TrainingError, match="head has 3 classes, tiny has 2"):
        train(images=assemble("tiny", two, ("a", "b"), (6, 6)))
