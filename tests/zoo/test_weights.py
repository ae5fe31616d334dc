"""Weights files: the good ones fit, and the others are refused with the model left as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from perturbify import zoo
from perturbify.errors import WeightsError
from perturbify.zoo.weights import fit_weights, read_weights


@pytest.fixture
def state() -> dict[str, Tensor]:
    return zoo.create("cifar_resnet20").state_dict()


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".bin"])
@pytest.mark.parametrize(
    "shape",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": wrapped(s)},
        wrapped,
        lambda s: {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")},
    ],
    ids=["bare", "state_dict", "model", "module.", "no counters"],
)
def test_torch_files(tmp_path: Path, state: dict[str, Tensor], suffix: str, shape: Any) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save(shape(state), path)
    model = zoo.create("cifar_resnet20", weights=path)
    assert same(model, state)
    spec = zoo.describe(model)
    assert spec is not None and spec.weights.startswith(f"file:net{suffix} (sha256 ")
    assert str(tmp_path) not in spec.weights


def test_safetensors_with_and_without_a_normalisation(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "plain.safetensors")
    save_file(wrapped(state), tmp_path / "stated.safetensors", {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 2]"})
    plain = zoo.create("cifar_resnet20", weights=str(tmp_path / "plain.safetensors"))
    stated = zoo.create("cifar_resnet20", weights=tmp_path / "stated.safetensors")
    assert same(plain, state) and same(stated, state)
    found = zoo.normalization(stated)
    assert found is not None and found.std.flatten().tolist() == [1, 1, 2]
    found = zoo.normalization(plain)
    assert found is not None and found.std.flatten().tolist() == pytest.approx([0.2023, 0.1994, 0.2010])


class Malice:
    def __reduce__(self) -> Any:
        return os.system, ("touch proof",)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malice()}, "evil.pth")
    with pytest.raises(WeightsError, match=r"'evil\.pth' holds pickled code besides tensors, and that is never run"):
        zoo.create("cifar_resnet20", weights="evil.pth")
    assert not Path("proof").exists()


def test_a_missing_file_gets_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "resnet20.pth").touch()
    with pytest.raises(
        WeightsError, match=r"There is no weights file '.*resnet_20\.pth'\. Did you mean 'resnet20\.pth'"
    ):
        read_weights(tmp_path / "resnet_20.pth")
    with pytest.raises(WeightsError, match="There is no weights file"):
        read_weights(tmp_path / "no" / "such" / "folder.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"", "cannot be read as safetensors"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0{}      junk", "cannot be read as safetensors"),
        ("a.pth", b"", "cannot be read by torch.load"),
        ("a.pth", b"PK\x03\x04 and then nothing", "cannot be read by torch.load"),
        ("a.pth", b"these are no weights", "cannot be read by torch.load"),
        ("a.onnx", b"x", "no weights file by its name"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("held", [{}, [1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}])
def test_files_without_a_state_dict(tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"'a\.pth' holds no state dict"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("std", ["0.2", "[0.2, 0]", "[0.2]", '["a", "b"]'])
def test_a_normalisation_that_is_none(tmp_path: Path, std: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"mean": "[0.1, 0.1]", "std": std})
    with pytest.raises(WeightsError, match="that do not fit"):
        read_weights(tmp_path / "a.safetensors")


def test_our_own_checkpoint_is_a_model_not_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "model.safetensors", {"perturbify": json.dumps({"format": 1})})
    with pytest.raises(WeightsError, match="Give it as the model itself"):
        zoo.create("cifar_resnet20", weights=tmp_path / "model.safetensors")


def fit(name: str, state: dict[str, Tensor], **kwargs: Any) -> str:
    """Tries to fit, checks that nothing changed, and returns what was said."""
    model = zoo.create(name, **kwargs)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        fit_weights(model, state, source="'net.pth'", head=lambda: frozenset({"linear.weight", "linear.bias"}))
    assert same(model, before)
    return str(caught.value)


def test_names_that_do_not_fit(state: dict[str, Tensor]) -> None:
    del state["bn1.weight"]
    state["fc.weight"] = torch.zeros(1)
    said = fit("cifar_resnet20", state)
    assert "it lacks 1 name (bn1.weight) and has unknown 1 name (fc.weight)" in said
    said = fit("cifar_resnet32", zoo.create("cifar_resnet20").state_dict())
    assert "it lacks 60 names (layer1.3.conv1.weight, layer1.3.bn1.weight, layer1.3.bn1.bias, …)." in said


def test_shapes_that_do_not_fit(state: dict[str, Tensor]) -> None:
    said = fit("cifar_resnet20_x2", state)
    assert "shapes differ (conv1.weight is (16, 3, 3, 3), not (32, 3, 3, 3); " in said
    assert "--reset-head" not in said


def test_a_head_of_another_size(state: dict[str, Tensor]) -> None:
    assert "its head has 10 classes, the model 100. `--reset-head`" in fit("cifar_resnet20", state, num_classes=100)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("cifar_resnet20", "linear"),
        ("timm:mobilenetv3_small_050", "classifier"),
        ("torchvision:regnet_y_400mf", "fc"),
    ],
)
def test_reset_head_loads_all_but_the_head(tmp_path: Path, name: str, head: str) -> None:
    state = zoo.create(name, num_classes=6).state_dict()
    save_file(state, tmp_path / "six.safetensors")
    with pytest.raises(WeightsError, match="its head has 6 classes, the model 3"):
        zoo.create(name, num_classes=3, weights=tmp_path / "six.safetensors")
    model = zoo.create(name, num_classes=3, weights=tmp_path / "six.safetensors", reset_head=True)
    fresh = {f"{head}.weight", f"{head}.bias"}
    assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items() if k not in fresh)
    spec = zoo.describe(model)
    assert spec is not None and spec.weights.endswith("…), head fresh")
    # The same number of classes is no reason to keep the head that one asked to reset.
    six = zoo.create(name, num_classes=6, weights=tmp_path / "six.safetensors", reset_head=True)
    assert not torch.equal(six.state_dict()[f"{head}.weight"], state[f"{head}.weight"])


def test_reset_head_needs_a_head_that_can_be_told(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="cannot be told"):
        fit_weights(zoo.create("cifar_resnet20"), state, source="'net.pth'", head=lambda: frozenset(), reset_head=True)
