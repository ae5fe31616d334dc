"""The defences by name, and one of the user's own."""

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import perturbify
from perturbify import PerturbConfig, methods, recipe, zoo
from perturbify.errors import CheckpointError, MethodError, RecipeError
from perturbify.methods import registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text()
OURS = ("none", "vanilla", "learn2perturb", "learn2perturb-r", "pni", "rse", "adv-bnn", "pixeldp")


@pytest.fixture
def untouched(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


@pytest.fixture
def own(untouched):
    """The one of examples/."""
    return runpy.run_path(str(ROOT / "examples" / "own_defence.py"), run_name="their_module")["Widening"]


def test_all_eight_are_registered_and_documented():
    assert set(methods.names()) == set(OURS)
    for name in OURS:
        method = methods.get(name)
        assert method.name == name and f"| `{name}`" in PAGE
        assert method.draws == (50 if name in ("rse", "adv-bnn", "pixeldp") else 1)
        assert method.certifies == (name == "pixeldp")


def test_every_method_has_its_own_recipe():
    for name in OURS:
        stem = "cifar10" if name == "learn2perturb" else f"cifar10_{name.replace('-', '_')}"
        read = recipe.load(stem)
        assert read.method == name
        if methods.get(name).perturb is not None:
            methods.get(name).check_config(read.perturb)
            assert read.perturb == methods.get(name).perturb


def test_recipes_have_the_original_hyperparameters():
    """docs/constants.md."""
    pni, rse, bnn = (recipe.load(f"cifar10_{name}") for name in ("pni", "rse", "adv_bnn"))
    assert (pni.train.epochs, pni.optimizer.lr, pni.optimizer.milestones) == (160, 0.1, (80, 120))
    assert (pni.theta_optimizer.weight_decay, pni.attack.weight, pni.attack.steps) == (0, 0.5, 7)
    assert (rse.train.epochs, rse.optimizer.lr, rse.optimizer.weight_decay) == (200, 0.01, 5e-4)
    assert rse.optimizer.milestones == bnn.optimizer.milestones == (80, 140, 180)
    assert (bnn.optimizer.kind, bnn.theta_optimizer.kind, bnn.optimizer.lr) == ("adam", "adam", 0.01)
    assert (bnn.attack.steps, bnn.attack.step_size, bnn.attack.weight, bnn.train.gamma) == (10, 0.007, 1, 0.02)
    assert recipe.load("cifar10_pixeldp").optimizer.lr == 0.1


ELSEWHERE = [(name, site) for name in OURS for site in methods.get(name).sites]


@pytest.mark.parametrize(("name", "site"), ELSEWHERE)
def test_a_method_at_another_site(name, site, tmp_path):
    own = methods.get(name).perturb
    model = zoo.create("cifar_resnet20", num_classes=10)
    x = torch.rand(2, 3, 32, 32)
    net = perturbify.wrap(model, replace(own, site=site), method=name, example_input=x).eval()
    assert not torch.equal(net(x), net(x))
    perturbify.save(net, tmp_path / "f.safetensors")
    loaded = perturbify.load(tmp_path / "f.safetensors")
    for n in (net, loaded):
        n.eval()
        torch.manual_seed(3)
        n.answers = perturbify.predict(n, x, draws=2).probabilities
    assert torch.equal(net.answers, loaded.answers)
    assert loaded.surgery.method == name and loaded.surgery.plan.config.site == site


def test_pni_accepts_activation_as_a_site():
    pni = methods.get("pni").perturb
    config = replace(pni, site="activation", grain="channel")
    assert config == replace(pni, site="output", grain="channel")
    methods.get("pni").check_config(config)


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(MethodError, match=r"no method 'vanila'\. Did you mean 'vanilla'"):
        methods.get("vanila")
    with pytest.raises(MethodError, match="or, for commands, install it with an entry point"):
        methods.get("xyzzy")
    with pytest.raises(RecipeError, match="method is unknown: There is no method 'pnii'"):
        recipe.load("digits", ["method=pnii"])


def test_another_method_brings_its_own_noise_and_penalty():
    base = recipe.load("cifar10_short")
    read = recipe.load("cifar10_short", ["method=pni", "perturb.grain=channel"])
    assert read.perturb == PerturbConfig("channel", "weight", "relative", theta_min=None)
    assert (base.train.gamma, read.train.gamma) == (1e-4, None)
    assert read.train.epochs == base.train.epochs
    again = recipe.from_toml(recipe.to_toml(read), "again")
    assert (again.perturb, again.train.gamma) == (read.perturb, None)
    # The same method named once more is no other one.
    assert recipe.load("cifar10_short", ["method=learn2perturb"]) == base


def test_an_invalid_or_taken_name_is_refused(untouched):
    class Nameless(methods.Method):
        pass

    class Pni(methods.Method):
        name = "pni"

    with pytest.raises(MethodError, match="Nameless has no name"):
        methods.register(Nameless)
    with pytest.raises(MethodError, match="already a method 'pni'"):
        methods.register(Pni)


def test_noise_of_another_kind_is_refused():
    model, x = zoo.create("cifar_resnet20", num_classes=4), torch.rand(2, 3, 8, 8)
    for method, config, said in (
        (
            "adv-bnn",
            PerturbConfig(site="input", scale="posterior"),
            "adv-bnn takes the site parameter or weight, not input",
        ),
        ("rse", PerturbConfig(site="weight"), "rse takes the site input, output, norm or addition, not weight"),
        ("pni", PerturbConfig(site="weight"), "scale='relative', but this noise has 'absolute'"),
        ("rse", PerturbConfig(site="input"), "learnable=False, but this noise has True"),
        ("pixeldp", PerturbConfig(learnable=False), "extent='first', but this noise has 'all'"),
        ("learn2perturb", PerturbConfig(theta_min=None), "needs a floor for θ"),
        ("vanilla", PerturbConfig(), "vanilla has no noise, but this network has some"),
    ):
        with pytest.raises(MethodError, match=re.escape(said)):
            perturbify.wrap(model, config, method=method, example_input=x)


def test_a_users_method_trains_saves_and_loads(own, tmp_path):
    """As docs/methods.md has it."""
    from perturbify.training import finetune
    from perturbify.training.launch import load_data

    chosen = recipe.load("smoke", ["method=widening", "train.epochs=2", "train.warmup_epochs=0"])
    data = load_data(chosen)
    model = zoo.create(chosen.model, num_classes=len(data.classes), **chosen.model_args)
    result = finetune(model, chosen, tmp_path / "run", data=data)
    assert all(set(epoch["steps"]) == {"joint step"} for epoch in result.metrics)
    assert all(epoch["adversarial_loss"] > 0 for epoch in result.metrics)
    start = 0.1
    assert result.metrics[-1]["theta"]["mean"] != pytest.approx(start, abs=1e-5)
    loaded = perturbify.load(result.folder.model)
    x, _ = next(data.test.batches(4))
    torch.manual_seed(0)
    answer = perturbify.predict(loaded, x)
    assert loaded.surgery.method == "widening" and answer.draws == 8 and answer.radii is None
    torch.manual_seed(0)
    assert torch.equal(perturbify.predict(result.model, x).probabilities, answer.probabilities)
    del registry._METHODS["widening"]
    with pytest.raises((MethodError, CheckpointError), match="no method 'widening'"):
        perturbify.load(result.folder.model)


def test_the_documented_penalty_makes_theta_grow(own):
    theta = torch.full((3, 1, 1), 0.1, requires_grad=True)
    own().penalty([methods.NoisySite(theta)], methods.Stage(1, 128, 100, 1e-4)).backward()
    torch.testing.assert_close(theta.grad, torch.full((3, 1, 1), -1e-3))


def test_a_method_from_a_package_is_found(tmp_path):
    """A real distribution on the path, and a fresh process."""
    (tmp_path / "their_defence.py").write_text(
        "from perturbify import methods\n\n@methods.register\nclass Theirs(methods.Method):\n    name = 'theirs'\n"
    )
    info = tmp_path / "their_defence-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-defence\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[perturbify.methods]\ntheirs = their_defence\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from perturbify import methods; "
    found = subprocess.run(
        [sys.executable, "-c", code + "print(type(methods.get('theirs')).__qualname__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "Theirs"
