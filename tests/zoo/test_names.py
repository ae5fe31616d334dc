"""What a name means, and what is said when it means nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perturbify import zoo
from perturbify.errors import ModelError, UnknownModel


@pytest.fixture
def my_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of a user's, in the current directory and on no path."""
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "SIZE = 8\n"
        "def tiny(width=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten())\n"
    )
    (tmp_path / "my_broken.py").write_text("import does_not_exist_anywhere\n")
    (tmp_path / "my_failing.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_nets", None)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("cifar_resnet20", "perturbify:cifar_resnet20"),
        ("cifar_resnet56_x1.5", "perturbify:cifar_resnet56_x1.5"),
        ("resnet18", "timm:resnet18"),
        ("resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("googlenet", "torchvision:googlenet"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("timm:resnet18", "timm:resnet18"),
        ("perturbify:cifar_resnet18", "perturbify:cifar_resnet18"),
    ],
)
def test_resolve(name: str, meaning: str) -> None:
    assert zoo.resolve(name) == meaning


def test_also_known_as() -> None:
    assert zoo.also_known_as("timm:resnet18") == ("torchvision:resnet18",)
    assert zoo.also_known_as("torchvision:resnet18") == ("timm:resnet18",)
    assert zoo.also_known_as("torchvision:googlenet") == ()
    assert zoo.also_known_as("my_nets:tiny") == ()


def test_models_match_with_or_without_the_library_prefix() -> None:
    assert zoo.model_names("resnet18") == ["timm:resnet18", "torchvision:resnet18"]
    assert "timm:resnet18" not in zoo.model_names("torchvision:*")
    assert len(zoo.model_names()) > 1000


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("resnt18", "timm:resnet18"),
        ("cifar_resnet21", "perturbify:cifar_resnet20"),
        ("mobilenet_v3_larg", "torchvision:mobilenet_v3_large"),
        ("torchvision:resnet81", "torchvision:resnet18"),
        ("resnet18.a1_in1", "timm:resnet18.a1_in1k"),
        ("tim:resnet18", "timm:resnet18"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, offered: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        zoo.resolve(name)
    assert name in caught.value.message or name.partition(":")[0] in caught.value.message
    assert caught.value.hint is not None and repr(offered) in caught.value.hint


def test_without_a_near_name_the_libraries_are_listed() -> None:
    with pytest.raises(UnknownModel, match=r"package\.module:factory"):
        zoo.resolve("§")


@pytest.mark.usefixtures("my_nets")
def test_a_users_factory_in_the_current_directory() -> None:
    before = list(sys.path)
    assert zoo.resolve("my_nets:tiny") == "my_nets:tiny"
    assert sys.path == before


@pytest.mark.usefixtures("my_nets")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("my_nets:tyni", UnknownModel, "has no 'tyni'. Did you mean 'tiny'"),
        ("my_nets:SIZE", ModelError, "'my_nets:SIZE' is a int, not a function"),
        ("my_nots:tiny", UnknownModel, "no module 'my_nots'"),
        ("my_broken:tiny", ModelError, "cannot be imported: ModuleNotFoundError: No module named 'does_not"),
        ("my_failing:tiny", ModelError, "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_users_factory_mistakes(name: str, error: type[ModelError], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        zoo.resolve(name)
    assert type(caught.value) is error
