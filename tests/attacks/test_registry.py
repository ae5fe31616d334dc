"""Attacks by name: ours, a user's, and those of a package that is installed."""

import sys

import pytest
import torch

from perturbify import attacks
from perturbify.attacks import FewPixel, MarginPgd, Pgd, needs_of, registry, role_of
from perturbify.attacks.libraries import CarliniWagner, StockAutoAttack
from perturbify.errors import CheckError

OURS = ["fgsm", "pgd", "margin", "square", "apgd", "apgd-dlr", "apgd-t", "fab", "few-pixel", "l2", "cw"]
OURS += ["hopskipjump", "random"]


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def test_ours_are_there():
    assert list(attacks.registered())[: len(OURS)] == OURS


@pytest.mark.parametrize("name", OURS)
def test_what_an_entry_says_is_what_its_attack_is(name):
    entry = attacks.get(name)
    attack = entry.build(4 / 255)
    assert entry.role == role_of(attack)
    assert entry.needs == needs_of(attack)
    assert entry.about and "\n" not in entry.about and len(entry.about) < 80
    bound = {"l2": 0.25, "few-pixel": 1.0, "cw": None, "hopskipjump": None}.get(name, 4 / 255)
    assert attack.epsilon == pytest.approx(bound) if bound is not None else attack.epsilon is None
    assert isinstance(attack.norm, str) and attack.passes.forward + attack.passes.gradient > 0


@pytest.mark.parametrize("name", ["fgsm", "pgd", "margin", "random", "l2"])
def test_an_entry_is_an_attack_that_runs(name):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
    x, y = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 2])
    assert attacks.get(name).build(0.1).craft(net, x, y).images.shape == x.shape


def mine(epsilon):
    return Pgd(epsilon, steps=3)


def test_a_users_own():
    attacks.register("mine", mine, about="three steps", role="white box", needs=["gradients"])
    assert attacks.get("mine").build(0.1) == Pgd(0.1, steps=3)
    assert list(attacks.registered())[-1] == "mine"
    attacks.register("mine", mine, about="again, as a notebook's cell does", role="white box")
    assert attacks.get("mine").about.startswith("again") and attacks.get("mine").needs == frozenset()


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match=r"'pgd' already, from perturbify\.attacks\.families"):
        attacks.register("pgd", mine, about="another", role="white box")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"role": "grey box"}, "role of 'x' is one of one step"), ({"needs": ["a GPU"]}, "needs of 'x' are any of grad")],
    ids=["role", "needs"],
)
def test_roles_and_needs_are_known_ones(wrong, message):
    with pytest.raises(ValueError, match=message):
        attacks.register("x", mine, **({"about": "x", "role": "black box"} | wrong))
    assert "x" not in attacks.registered()


@pytest.mark.parametrize(
    ("asked", "answer"), [("sqare", "Did you mean 'square'"), ("zzz", "There are fgsm, pgd, margin")]
)
def test_an_unknown_name_gets_the_nearest(asked, answer):
    with pytest.raises(ValueError, match=f"there is no attack '{asked}'. {answer}"):
        attacks.get(asked)


def test_roles_and_needs_of_attacks_that_say_nothing():
    assert role_of(MarginPgd()) == "white box" and needs_of(MarginPgd()) == {"gradients"}
    assert role_of(FewPixel()) == "black box" and needs_of(FewPixel()) == frozenset()
    assert role_of(Pgd(steps=1, random_start=False)) == "one step" and role_of(Pgd(steps=1)) == "white box"
    assert needs_of(CarliniWagner()) == {"gradients", "foolbox"}
    assert needs_of(StockAutoAttack()) == {"gradients", "4 classes"}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution with an entry point, as pip leaves one."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_LOADED", set())

    def install(code):
        (tmp_path / "their_attack.py").write_text(code)
        info = tmp_path / "their_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[perturbify.attacks]\ntheirs = their_attack\n")

    yield install
    sys.modules.pop("their_attack", None)


def test_a_package_that_declares_an_attack_is_found_when_it_is_asked_for(install):
    install(
        "from perturbify.attacks import Pgd, register\n"
        "register('theirs', Pgd, about='of theirs', role='white box', needs=['gradients'])\n"
    )
    assert attacks.get("pgd").role == "white box" and "their_attack" not in sys.modules
    assert attacks.get("theirs").about == "of theirs"
    assert list(attacks.registered())[-1] == "theirs"
    del sys.modules["their_attack"]
    attacks.registered()
    assert "their_attack" not in sys.modules, "once is enough"


def test_a_package_that_does_not_load_is_named(install):
    install("import nothing_of_that_name\n")
    expected = r"The attacks of the package their-package do not load \(their_attack\): ModuleNotFoundError"
    for ask in (attacks.registered, lambda: attacks.get("theirs")):
        with pytest.raises(CheckError, match=expected) as error:
            ask()
        assert error.value.hint == "Update or uninstall their-package."
    assert attacks.get("pgd").role == "white box"
