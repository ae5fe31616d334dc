"""Attacks by name: a user's, and those of a package that is installed."""

import sys

import pytest

from perturbify import attacks
from perturbify.attacks import FewPixel, MarginPgd, Pgd, needs_of, registry, role_of
from perturbify.attacks.libraries import CarliniWagner, StockAutoAttack
from perturbify.errors import CheckError


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def mine(epsilon):
    return Pgd(epsilon, steps=3)


def test_a_users_attack_can_be_registered():
    attacks.register("mine", mine, about="three steps", role="white box", needs=["gradients"])
    assert attacks.get("mine").build(0.1) == Pgd(0.1, steps=3)
    assert list(attacks.registered())[-1] == "mine"
    attacks.register("mine", mine, about="again, as a notebook's cell does", role="white box")
    assert attacks.get("mine").about.startswith("again") and attacks.get("mine").needs == frozenset()


def test_a_name_that_is_taken_is_refused():
    attacks.register("mine", mine, about="three steps", role="white box")
    with pytest.raises(ValueError, match=rf"'mine' is already registered by {__name__}"):
        attacks.register("mine", Pgd, about="another", role="white box")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"role": "grey box"}, "role of 'x' must be one of one step"),
        ({"needs": ["a GPU"]}, "needs of 'x' must be among grad"),
    ],
    ids=["role", "needs"],
)
def test_unknown_roles_and_needs_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        attacks.register("x", mine, **({"about": "x", "role": "black box"} | wrong))
    assert "x" not in attacks.registered()


def test_an_unknown_name_suggests_the_nearest():
    attacks.register("mine", mine, about="three steps", role="white box")
    with pytest.raises(ValueError, match=r"there is no attack 'mines'\. Did you mean 'mine'"):
        attacks.get("mines")
    with pytest.raises(ValueError, match=r"there is no attack 'zzz'\. There are mine"):
        attacks.get("zzz")


def test_built_in_attacks_have_roles_and_needs():
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


def test_an_attack_from_a_package_is_found_lazily(install):
    install(
        "from perturbify.attacks import Pgd, register\n"
        "register('theirs', Pgd, about='of theirs', role='white box', needs=['gradients'])\n"
    )
    attacks.register("mine", mine, about="three steps", role="white box")
    assert attacks.get("mine").role == "white box" and "their_attack" not in sys.modules
    assert attacks.get("theirs").about == "of theirs"
    assert list(attacks.registered())[-1] == "theirs"
    del sys.modules["their_attack"]
    attacks.registered()
    assert "their_attack" not in sys.modules, "once is enough"


def test_a_package_that_does_not_load_is_named(install):
    install("import nothing_of_that_name\n")
    expected = r"The attacks of the package their-package cannot be loaded \(their_attack\): ModuleNotFoundError"
    for ask in (attacks.registered, lambda: attacks.get("theirs")):
        with pytest.raises(CheckError, match=expected) as error:
            ask()
        assert error.value.hint == "Update or uninstall their-package."
