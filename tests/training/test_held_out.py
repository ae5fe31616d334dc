"""Training images that are held out choose the best epoch, and are not trained on."""

import pytest
import torch
from networks.runs import Killed, assert_same_run
from networks.untouched import untouched

import perturbify
from perturbify.attacks import Pgd, pgd
from perturbify.checkpoint import container
from perturbify.errors import DataError
from perturbify.training import held_out, run
from perturbify.training.step import Trainer


def test_held_out_images_are_not_trained_on(start, data, monkeypatch):
    seen = []
    step = Trainer.step

    def note(self, x, y, *rest, **more):
        seen.append(x)
        return step(self, x, y, *rest, **more)

    monkeypatch.setattr(Trainer, "step", note)
    result = start("run", data__held_out=8, data__crop_padding=0, data__flip=False)
    trained_on = {image.contiguous().numpy().tobytes() for x in seen for image in x}
    rest, apart = data.train.divided(8)
    kept = {x[0].contiguous().numpy().tobytes() for x, _ in apart.batches(1)}
    assert len(kept) == 8 and not kept & trained_on
    assert trained_on <= {x[0].contiguous().numpy().tobytes() for x, _ in rest.batches(1)}
    assert [m["images"] for m in result.metrics] == [18] * 3
    assert [m["held_out"]["n"] for m in result.metrics] == [8] * 3


def test_figures_use_the_attack_of_training(make_learner, data, make_recipe):
    recipe = make_recipe(perturb__theta_init=0.01)
    trainer, *_ = make_learner(perturb__theta_init=0.01)
    with untouched(trainer.model):
        found = held_out.classify(trainer.model, data.test, recipe, 3, 5)
        assert held_out.classify(trainer.model, data.test, recipe, 3, 5) == found
    model = trainer.model.eval()
    x, y = next(data.test.batches(9))
    torch.manual_seed(0)
    attacked = pgd(model, x, y, Pgd(recipe.attack.epsilon, recipe.attack.step_size, recipe.attack.steps))
    with torch.no_grad():
        clean, under_attack = [(model(images).argmax(1) == y).sum().item() for images in (x, attacked)]
    assert found["n"] == 9
    assert abs(9 * found["clean_accuracy"] - clean) <= 1  # the noise is small, not nothing
    assert abs(9 * found["adversarial_accuracy"] - under_attack) <= 1


@pytest.mark.parametrize(
    ("accuracies", "every", "asked", "best"),
    [((0.2, 0.5, 0.1), 1, (0, 1, 2), 1), ((0.5, 0.5, 0.5), 1, (0, 1, 2), 0), ((0.9, 0.2, 0.1), 2, (1, 2), 1)],
)
def test_the_best_epoch_has_a_file(accuracies, every, asked, best, start, build, monkeypatch):
    def classify(_model, images, _recipe, epoch, _batch_size):
        return {"n": len(images), "clean_accuracy": 1.0, "adversarial_accuracy": accuracies[epoch]}

    monkeypatch.setattr(run.held_out, "classify", classify)
    result = start("run", data__held_out=8, train__held_out_every=every)
    assert tuple(m["epoch"] for m in result.metrics if "held_out" in m) == asked
    assert held_out.best_epoch(result.metrics) == best
    header = perturbify.checkpoint.read_header(result.folder.best)
    assert header.trained["epochs"] == best + 1
    loaded = perturbify.load(result.folder.best, model=build())
    same = [torch.equal(a, b) for a, b in zip(loaded.parameters(), result.model.parameters(), strict=True)]
    assert not all(same), "it is not that of the last epoch"


def test_a_resumed_run_keeps_images_and_figures(start, continue_run):
    whole = start("whole", data__held_out=8)
    with pytest.raises(Killed):
        start("stopped", stop_after=7, data__held_out=8)
    resumed = continue_run("stopped")
    assert_same_run(resumed, whole)
    ours, theirs = (container.read(run.folder.best) for run in (resumed, whole))
    assert ours.metadata == theirs.metadata
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())


def test_without_held_out_images_nothing_is_best(start):
    result = start("run")
    assert held_out.best_epoch(result.metrics) is None and not result.folder.best.exists()


def test_more_images_than_exist(start):
    with pytest.raises(DataError, match="26 of 26 images cannot be held out"):
        start("run", data__held_out=26)
