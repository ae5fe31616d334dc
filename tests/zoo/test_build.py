"""Building networks by name: three libraries, a user's factory, and everything that can go wrong."""

from __future__ import annotations

import importlib
import io
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from torch import nn

from perturbify import zoo
from perturbify.errors import ModelError, WeightsError
from perturbify.zoo.names import NETWORKS

FACTORIES = """
import torch
from torch import nn

def tiny(width=4, num_classes=5):
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, width, 3), *pool, nn.Linear(width, num_classes))

def fixed(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten())

def nothing():
    return "a network, I promise"

def failing():
    raise OSError("no such thing")
"""


@pytest.fixture
def my_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_factories", None)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every fetch fails at once and is written down."""
    tried: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        tried.append(str(args[0]) if args else "")
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing is cached in either place
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tried


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("cifar_resnet20", {"num_classes": 7, "padding": "end"}),
        ("timm:resnet18", {"num_classes": 10, "in_chans": 1}),
        ("timm:mobilenetv3_small_050", {"drop_rate": 0.1}),
        ("torchvision:resnet18", {"num_classes": 10}),
        ("torchvision:googlenet", {"aux_logits": False}),
        ("torchvision:fcn_resnet50", {"num_classes": 4}),
    ],
)
def test_a_spec_builds_the_same_architecture_again(name: str, kwargs: dict[str, Any], no_network: list[str]) -> None:
    model = zoo.create(name, **kwargs)
    spec = zoo.describe(model)
    assert spec is not None
    assert model.training
    assert (spec.name, spec.kwargs, spec.weights) == (zoo.resolve(name), kwargs, "fresh")
    again = zoo.build(zoo.ModelSpec.from_dict(spec.to_dict()))
    assert zoo.describe(again) == spec
    assert shapes(again) == shapes(model)
    assert str(again) == str(model)
    assert not no_network


def test_build_keeps_the_tag_it_was_given() -> None:
    spec = zoo.ModelSpec("perturbify:cifar_resnet20", {}, "file:x.pth (sha256 01234567…)")
    assert zoo.describe(zoo.build(spec)) is spec


def test_timm_gets_the_class_count() -> None:
    assert zoo.create("resnet18", num_classes=10).get_submodule("fc").weight.shape == (10, 512)


@pytest.mark.usefixtures("my_factories")
def test_a_users_factory() -> None:
    model = zoo.create("my_factories:tiny", num_classes=3, width=8)
    spec = zoo.describe(model)
    assert spec == zoo.ModelSpec("my_factories:tiny", {"width": 8, "num_classes": 3}, "fresh")
    assert shapes(zoo.build(spec)) == shapes(model)
    assert zoo.create("my_factories:fixed").training


@pytest.mark.usefixtures("my_factories")
@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "my_factories:fixed",
            {"num_classes": 3},
            "has no argument 'num_classes'. Let the factory take num_cl",
        ),
        ("my_factories:tiny", {"widht": 3}, "has no argument 'widht'. Did you mean 'width'"),
        ("my_factories:tiny", {"q": 3}, "has no argument 'q'. It takes width, num_classes"),
        ("my_factories:tiny", {"width": "a"}, "my_factories:tiny could not be built: TypeError"),
        ("my_factories:tiny", {"width": float("nan")}, "cannot be written into a checkpoint"),
        ("my_factories:tiny", {"width": nn.ReLU}, "cannot be written into a checkpoint"),
        ("my_factories:nothing", {}, "returned a str, not a network"),
        ("my_factories:failing", {}, "could not be built: OSError: no such thing"),
        ("cifar_resnet20", {"widht": 2}, "has no argument 'widht'. Did you mean 'width'"),
        ("cifar_resnet20_x2", {"width": 4}, "multiple values for argument 'width'"),
        ("timm:resnet18", {"in_chan": 1}, "has no argument 'in_chan'. Did you mean 'in_chans'"),
        (
            "torchvision:resnet18",
            {"num_class": 1},
            "has no argument 'num_class'. Did you mean 'num_classes'",
        ),
        ("timm:resnet18", {"checkpoint_path": "x.pth"}, "does not accept 'checkpoint_path' here"),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}, "does not accept 'weights_backbone' here"),
    ],
)
def test_bad_arguments(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        zoo.create(name, **kwargs)


def test_bad_specs() -> None:
    with pytest.raises(ModelError, match="'kwargs', 'extra' missing, unknown, or mistyped"):
        zoo.ModelSpec.from_dict({"name": "timm:resnet18", "weights": "fresh", "extra": 1})


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_pretrained_without_network_access_suggests_the_fix(name: str, no_network: list[str]) -> None:
    before = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    with pytest.raises(WeightsError) as caught:
        zoo.create(name, pretrained=True)
    assert caught.value.message.startswith(f"The pretrained weights of {name} could not be fetched: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None and "--weights FILE" in caught.value.hint
    assert no_network
    assert (socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE) == before


def test_a_librarys_network_never_imports_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lazily.py").write_text("from pathlib import Path\nPath('imported').touch()", encoding="utf-8")

    def imports_when_called() -> nn.Module:  # as libraries do with what is optional
        importlib.import_module("lazily")
        return nn.Linear(1, 1)

    monkeypatch.setitem(NETWORKS, "imports_when_called", imports_when_called)
    with pytest.raises(ModelError, match="No module named 'lazily'"):
        zoo.create("perturbify:imports_when_called")
    assert not Path("imported").exists()


def test_a_factory_cannot_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ending.py").write_text("import sys\nbuild = sys.exit", encoding="utf-8")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)", encoding="utf-8")
    with pytest.raises(ModelError, match="ending:build could not be built: SystemExit"):
        zoo.create("ending:build")
    with pytest.raises(ModelError, match="The module 'ends' of the model 'ends:build' cannot be imported: SystemExit"):
        zoo.create("ends:build")


@pytest.mark.usefixtures("my_factories")
@pytest.mark.parametrize("name", ["cifar_resnet20", "my_factories:tiny", "timm:resnetv2_18"])
def test_pretrained_where_no_weights_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm.models.PretrainedCfg, "has_weights", False)
    with pytest.raises(WeightsError, match="--weights FILE"):
        zoo.create(name, pretrained=True)


def test_contradictions() -> None:
    with pytest.raises(WeightsError, match="Use one of the two"):
        zoo.create("cifar_resnet20", pretrained=True, weights="x.pth")
    with pytest.raises(WeightsError, match="no file is given"):
        zoo.create("cifar_resnet20", reset_head=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, torch.Tensor]]:
    """Stands in for the server of torchvision's weights; keyed by the start of the file's name."""
    files: dict[str, dict[str, torch.Tensor]] = {}

    def fetch(url: str, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return files[url.rpartition("/")[2].partition("-")[0]]

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO())
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    return files


def test_torchvision_pretrained(fetched: dict[str, dict[str, torch.Tensor]]) -> None:
    fetched["resnet18"] = torchvision.models.resnet18().state_dict()
    same = zoo.create("torchvision:resnet18", pretrained=True)
    ten = zoo.create("torchvision:resnet18", pretrained=True, num_classes=10)
    told = zoo.create("torchvision:resnet18", pretrained=True, num_classes=1000)
    sources = [m.perturbify_spec.weights for m in (same, ten, told)]
    assert sources == ["pretrained", "pretrained, head fresh", "pretrained"]
    for model in (same, ten, told):
        assert torch.equal(model.get_submodule("layer4.1.conv2").weight, fetched["resnet18"]["layer4.1.conv2.weight"])
    assert ten.get_submodule("fc").weight.shape == (10, 512)
    assert torch.equal(told.get_submodule("fc").weight, fetched["resnet18"]["fc.weight"])


@pytest.mark.parametrize("num_classes", [None, 10])
def test_pretrained_googlenet_is_rebuilt_identically(
    fetched: dict[str, dict[str, torch.Tensor]], num_classes: int | None
) -> None:
    fetched["googlenet"] = torchvision.models.googlenet(init_weights=False).state_dict()
    model = zoo.create("torchvision:googlenet", pretrained=True, num_classes=num_classes)
    spec = zoo.describe(model)
    assert spec is not None
    again = zoo.build(spec)
    assert shapes(again) == shapes(model)
    assert (model.transform_input, again.transform_input) == (True, True)
    assert (model.aux1, again.aux1) == (None, None)
