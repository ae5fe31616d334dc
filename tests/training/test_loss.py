"""A method owns its loss: the one of docs/methods.md, and what is no loss."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import perturbify
from perturbify import methods
from perturbify.attacks import Pgd, pgd
from perturbify.errors import MethodError
from perturbify.methods import registry
from perturbify.methods.loss import Loss, logits, score
from perturbify.training import finetune
from perturbify.training.metrics import StepResult
from perturbify.training.phases import JOINT_STEP, PLAIN

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
PLAIN_SGD = {"optimizer__momentum": 0.0, "optimizer__nesterov": False, "optimizer__weight_decay": 0.0}


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


@pytest.fixture
def divergence():
    """The example of the page."""
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "class Divergence" in block)
    scope = {"__name__": "their_module"}
    exec(code, scope)
    return scope["Divergence"]


def test_a_step_uses_the_methods_own_loss(divergence, make_learner, snapshot):
    trainer, x, y = make_learner(method="divergence", train__gamma=2.0, optimizer__lr=0.1, **PLAIN_SGD)
    twin = copy.deepcopy(trainer.model)
    a = trainer.recipe.attack
    torch.manual_seed(3)
    clean = twin(x)
    attacked = twin(pgd(twin, x, y, Pgd(a.epsilon, a.step_size, a.steps, a.random_start)))
    p, q = clean.softmax(1), attacked.softmax(1)
    losses = F.cross_entropy(clean, y), F.cross_entropy(attacked, y)
    names = list(snapshot(twin)[0])
    parameters = dict(twin.named_parameters())
    total = losses[0] + 2.0 * (p * (p / q).log()).sum(1).mean()
    gradients = torch.autograd.grad(total, [parameters[n] for n in names])

    torch.manual_seed(3)
    (result,) = StepResult.read([trainer.step(x, y, PLAIN, 0)])
    assert (result.clean_loss, result.adversarial_loss) == (losses[0].item(), losses[1].item())
    assert result.clean_correct == (clean.argmax(1) == y).sum() and result.images == len(y)
    moved, _ = snapshot(trainer.model)
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(moved[name], parameters[name].detach() - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_it_trains_saves_and_loads(divergence, build, data, make_recipe, tmp_path):
    settings = make_recipe(method="divergence", attack__from_epoch=1)
    result = finetune(build(), settings, tmp_path / "run", data=data, device="cpu")
    assert [epoch["adversarial_loss"] is None for epoch in result.metrics] == [True, False, False]
    x, _ = next(data.test.batches(4))
    loaded = perturbify.load(result.folder.model, model=build())
    assert loaded.surgery.method == "divergence"
    answers = [perturbify.predict(network, x).probabilities for network in (result.model, loaded)]
    assert torch.equal(*answers)


def test_noise_and_a_users_loss_learn_together(divergence, make_learner, snapshot):
    class Both(divergence):
        name = "both"
        perturb = perturbify.PerturbConfig("channel", theta_init=0.2)

        def penalty(self, sites, stage):
            return -1e-4 * sum(site.theta.log().sum() for site in sites)

    methods.register(Both)
    trainer, x, y = make_learner(method="both")
    before = snapshot(trainer.model)
    trainer.step(x, y, JOINT_STEP, 0)
    for old, new in zip(before, snapshot(trainer.model), strict=True):
        assert not any(torch.equal(old[name], new[name]) for name in old)


def test_the_arguments_that_a_loss_receives(make_learner):
    told = []

    @methods.register
    class Listens(methods.Method):
        name = "listens"
        adversarial = True
        gamma = 0.5

        def loss(self, network, x, y, adversary, stage):
            told.append((network.training, adversary, stage))
            return super().loss(network, x, y, adversary, stage)

    trainer, x, y = make_learner(method="listens", attack__from_epoch=1, attack__weight=0.3)
    trainer.images = 26
    for epoch in (0, 1):
        trainer.step(x, y, PLAIN, epoch)
    assert [training for training, *_ in told] == [True, True]
    assert told[0][1] is None
    crafted = told[1][1](trainer.model, x, y)
    assert 0 < (crafted - x).abs().max() <= trainer.recipe.attack.epsilon + 1e-6
    assert told[1][2] == methods.Stage(k=2, batch_size=5, images=26, gamma=0.5, attack_weight=0.3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda network, x, y: F.cross_entropy(network(x), y), "is a Tensor"),
        (lambda network, x, y: None, "is a NoneType"),
        (lambda network, x, y: Loss(network(x), score(network(x), y)), r"has a total of shape \(5, 3\)"),
        (lambda network, x, y: Loss(torch.tensor(1.0), score(logits(network, x), y)), "has a total without a gradient"),
    ],
)
def test_invalid_losses_are_refused(make, said, make_learner, snapshot):
    @methods.register
    class Wrong(methods.Method):
        name = "wrong"

        def loss(self, network, x, y, adversary, stage):
            return make(network, x, y)

    trainer, x, y = make_learner(method="wrong")
    before = snapshot(trainer.model)[0]
    with pytest.raises(MethodError, match=f"The loss of the method wrong {said}") as error:
        trainer.step(x, y, PLAIN, 0)
    assert "methods.loss.Loss" in error.value.hint
    assert all(torch.equal(before[name], weight) for name, weight in snapshot(trainer.model)[0].items())
