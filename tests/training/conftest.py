"""A network and a dataset of no size, so that a whole run takes a fraction of a second."""

import pytest
import torch
from networks.runs import Killed
from torch import nn

import perturbify
from perturbify import methods, recipe
from perturbify.data.bundle import assemble
from perturbify.data.split import MemorySplit
from perturbify.training import finetune, resume
from perturbify.training.prepare import prepare
from perturbify.training.step import Trainer

CLASSES = ("a", "b", "c")


def images(n, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return MemorySplit(pixels, torch.arange(n) % len(CLASSES))


@pytest.fixture
def data():
    return assemble("tiny", [images(26, 0), images(9, 1)], CLASSES, (6, 6))


@pytest.fixture
def build():
    """A new network, with the same weights each time; dropout makes it depend on the random numbers."""

    def network(classes=3):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1, bias=False),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Conv2d(4, 4, 3),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, classes),
            )

    return network


@pytest.fixture
def make_recipe():
    """The recipe ``smoke`` for the tiny data, with changes such as ``train__epochs=3``."""

    def make(**changes):
        base = {
            "data.name": "tiny",
            "data.train_images": None,
            "train.batch_size": 5,
            "train.epochs": 3,
            "attack.steps": 2,
            "attack.step_size": 0.05,
        }
        return recipe.load("smoke", base | {key.replace("__", "."): value for key, value in changes.items()})

    return make


@pytest.fixture
def make_learner(build, data, make_recipe):
    """A trainer in train mode, and a batch."""

    def make(**changes):
        settings = make_recipe(**changes)
        method = methods.get(settings.method)
        trainer = Trainer(prepare(build(), settings, data, method), settings, method)
        trainer.model.train()
        trainer.set_epoch(0)
        x, y = next(data.train.batches(settings.train.batch_size))
        return trainer, x, y

    return make


@pytest.fixture
def snapshot():
    """Copies of a network's parameters: W and θ apart."""

    def take(model):
        thetas = {name: p.theta.detach().clone() for name, p in perturbify.perturbations(model)}
        ids = {id(p.theta) for _, p in perturbify.perturbations(model)}
        weights = {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in ids}
        return weights, thetas

    return take


@pytest.fixture
def start(build, data, make_recipe, tmp_path):
    """Begins a run that saves after every step and is stopped after so many of them."""

    def start(folder, *, stop_after=None, force=False, **changes):
        done = 0

        def on_step(_):
            nonlocal done
            done += 1
            if done == stop_after:
                raise Killed

        settings = make_recipe(train__w_steps=2, **{"train__save_minutes": 1e-9} | changes)
        return finetune(build(), settings, tmp_path / folder, data=data, device="cpu", force=force, on_step=on_step)

    return start


@pytest.fixture
def continue_run(build, data, tmp_path):
    def continue_run(folder, **options):
        options = {"model": build(), "data": data, "device": "cpu"} | options
        return resume(tmp_path / folder, **options)

    return continue_run
