"""The switches of ``[speed]``: what a step computes stays the same."""

from functools import partial

import pytest
import torch
from torch import nn

from perturbify import methods
from perturbify.errors import Diverged, TrainingError
from perturbify.training import launch, run, state
from perturbify.training.metrics import StepResult
from perturbify.training.phases import JOINT_STEP, THETA_STEP, W_STEP, WARM_UP
from perturbify.training.prepare import prepare
from perturbify.training.step import Trainer


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture
def learn(data, make_recipe):
    """The results of some steps on the same images."""

    def learn(phases, **changes):
        settings = make_recipe(train__batch_size=20, **changes)
        method = methods.get(settings.method)
        trainer = Trainer(prepare(network(), settings, data, method).train(), settings, method)
        trainer.set_epoch(0)
        x, y = next(data.train.batches(20))
        torch.manual_seed(0)
        return trainer, StepResult.read([trainer.step(x, y, phase, 1) for phase in phases])

    return learn


def losses(results):
    return [loss for r in results for loss in (r.clean_loss, r.adversarial_loss)]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("phases", [[WARM_UP] * 10, [W_STEP, THETA_STEP] * 5], ids=["silent", "noisy"])
def test_bfloat16_follows_float32(phases, learn):
    _, exact = learn(phases)
    trainer, rough = learn(phases, speed__precision="bfloat16")
    assert losses(rough) == pytest.approx(losses(exact), rel=0.1)
    assert losses(rough) != losses(exact)
    tensors = [
        *trainer.model.state_dict().values(),
        *(p.grad for p in trainer.model.parameters() if p.grad is not None),
    ]
    assert all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled, by a backend that needs no compiler."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    yield made
    torch.compiler.reset()


def test_compiled_steps_agree_and_use_two_graphs(learn, graphs):
    """One for the attack, in eval mode, and one for learning; modes and phases that take turns compile nothing anew."""
    _, eager = learn([WARM_UP] * 4)
    _, fast = learn([WARM_UP] * 4, speed__compile="on")
    assert losses(fast) == pytest.approx(losses(eager), rel=1e-4)
    graphs.clear()
    torch.compiler.reset()
    trainer, results = learn([W_STEP, THETA_STEP] * 4 + [JOINT_STEP] * 2, speed__compile="on")
    assert len(graphs) == 2
    _, eager = learn([W_STEP, THETA_STEP] * 4 + [JOINT_STEP] * 2)
    assert losses(results) == pytest.approx(losses(eager), rel=0.3)  # other draws
    x, y = torch.rand(7, 3, 6, 6), torch.arange(7) % 3
    trainer.step(x, y, W_STEP, 1)  # the last batch of an epoch
    assert len(graphs) == 2


def test_earlier_networks_do_not_stop_later_ones_compiling(start, graphs):
    """Dynamo takes the forwards of all our networks for one, whose recompilations it limits; timm lifts that limit."""
    made = []
    with torch._dynamo.config.patch(recompile_limit=8):
        for number in range(6):
            start(f"run-{number}", speed__compile="on", train__epochs=2, train__warmup_epochs=1, attack__steps=1)
            made.append(len(graphs))
            graphs.clear()
    assert min(made) >= 2 and len(set(made)) == 1, made


def failing(*_, **__):
    raise RuntimeError("no compiler here")


def test_auto_continues_where_nothing_can_compile(learn, monkeypatch):
    monkeypatch.setattr(torch, "compile", failing)
    trainer, _ = learn([W_STEP])
    trainer._compile = True  # as on a GPU
    x, y = torch.rand(20, 3, 6, 6), torch.arange(20) % 3
    with pytest.warns(UserWarning, match=r"uncompiled: torch\.compile failed .no compiler here"):
        trainer.step(x, y, W_STEP, 1)
    trainer.step(x, y, W_STEP, 1)  # which says nothing more


def test_on_is_refused_where_nothing_can_compile(learn, monkeypatch):
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(TrainingError, match=r"no compiler here.*speed\.compile=off"):
        learn([W_STEP], speed__compile="on")


def test_compiling_a_step_first_changes_no_draw(learn, graphs):
    trainer, _ = learn([], speed__compile="on")
    x, y = torch.rand(20, 3, 6, 6), torch.arange(20) % 3
    torch.manual_seed(3)
    trainer._compile_once(x, y)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_the_memory_format_changes_only_rounding(data, make_recipe, tmp_path):
    """Without noise, dropout and random starts, which are drawn in the order that numbers lie in memory."""
    runs = []
    for last in (True, False):
        settings = make_recipe(train__warmup_epochs=3, attack__random_start=False, speed__channels_last=last)
        runs.append(launch.finetune(network(), settings, tmp_path / str(last), data=data, device="cpu").metrics)
    found = [[m[k] for m in metrics for k in ("clean_loss", "adversarial_loss")] for metrics in runs]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_images_kept_on_the_device_are_the_same(start):
    assert same_weights(start("usual").model, start("other", speed__data_on_device="on").model)


@pytest.fixture
def gpu_like(monkeypatch):
    """Steps that nobody waits for, looked at every third time."""

    class Hasty(Trainer):
        def __init__(self, *args):
            super().__init__(*args)
            self.waits = False

    monkeypatch.setattr(launch, "Trainer", Hasty)
    monkeypatch.setattr(run, "LOOK_EVERY", 3)


def test_checking_the_loss_less_often_changes_nothing(start, request):
    usual = start("usual", train__save_minutes=10.0)
    request.getfixturevalue("gpu_like")
    hasty = start("hasty", train__save_minutes=10.0)
    assert same_weights(usual.model, hasty.model)
    clocks = ("seconds", "images_per_second")
    without = [[{k: v for k, v in m.items() if k not in clocks} for m in r.metrics] for r in (usual, hasty)]
    assert without[0] == without[1]


def test_divergence_between_two_checks_names_the_step(start, gpu_like, tmp_path):
    with pytest.raises(Diverged, match=r"epoch 0, step [1-3]: the loss .*last good state \(epoch 0, step 0\)"):
        start("run", optimizer__lr=1e6, train__warmup_epochs=0, train__save_minutes=10.0)
    assert state.read(tmp_path / "run" / "state.safetensors").position.step == 0
