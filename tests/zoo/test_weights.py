"""Weights files: the good ones fit, and the others are refused with the model left as it was."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from perturbify import zoo
from perturbify.errors import WeightsError
from perturbify.zoo.fitting import fit_weights
from perturbify.zoo.weights import read_weights


@pytest.fixture
def state() -> dict[str, Tensor]:
    return zoo.create("cifar_resnet20").state_dict()


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".bin", ".ckpt", ".pth.tar"])
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
    with pytest.raises(WeightsError, match=r"'evil\.pth' holds pickled code besides tensors, which is never run"):
        zoo.create("cifar_resnet20", weights="evil.pth")
    assert not Path("proof").exists()


def test_a_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
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
        ("a.pth", b"hello", "cannot be read by torch.load: it was not written by torch.save"),
        ("a.pth", b"PK\x03\x04 and then nothing", "cannot be read by torch.load"),
        ("a.pth", b"these are no weights", "cannot be read by torch.load"),
        ("a.onnx", b"x", "does not have the name of a weights file"),
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
def test_an_invalid_normalisation(tmp_path: Path, std: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"mean": "[0.1, 0.1]", "std": std})
    with pytest.raises(WeightsError, match="that do not fit"):
        read_weights(tmp_path / "a.safetensors")


def test_our_own_checkpoint_is_a_model_not_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "model.safetensors", {"perturbify": json.dumps({"format": 1})})
    with pytest.raises(WeightsError, match="Use it as the model itself"):
        zoo.create("cifar_resnet20", weights=tmp_path / "model.safetensors")


# Numbers of other kinds than a model's own

ENCODED = {
    "complex64": lambda w: w.to(torch.complex64),
    "int8": lambda w: (w * 100).to(torch.int8),
    "bool": lambda w: w > 0,
    "float8_e4m3fn": lambda w: w.to(torch.float8_e4m3fn),
}
UNUSUAL = {
    "sparse": lambda w: w.to_sparse(),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "meta": lambda w: w.to("meta"),
    "nested": lambda w: torch.nested.nested_tensor(list(w)),
}


def first(state: dict[str, Tensor], change: Any) -> dict[str, Tensor]:
    """The same weights, with the first of them changed."""
    return state | {"conv1.weight": change(state["conv1.weight"].clone())}


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_encoded_weights_are_named(tmp_path: Path, state: dict[str, Tensor], kind: str, suffix: str) -> None:
    path, changed = tmp_path / f"net{suffix}", first(state, ENCODED[kind])
    save_file(changed, path) if suffix == ".safetensors" else torch.save(changed, path)
    with pytest.raises(WeightsError, match=rf"does not fit this model: conv1\.weight is {kind}, not float32"):
        zoo.create("cifar_resnet20", weights=path)


@pytest.mark.filterwarnings("ignore")  # torch warns of some of these kinds
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_tensors_are_named(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    torch.save(first(state, UNUSUAL[kind]), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=rf"'net\.pth' holds conv1\.weight as a {kind} tensor"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_nonfinite_weights_are_named(state: dict[str, Tensor], number: float) -> None:
    changed = first(state, lambda w: w.double().index_fill_(0, torch.tensor(0), number))
    said = fit("cifar_resnet20", changed)
    assert "'net.pth' holds weights that are not finite: conv1.weight has NaN or infinity in 27 of 432" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_rounded(state: dict[str, Tensor], dtype: torch.dtype) -> None:
    model = zoo.create("cifar_resnet20")
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    fit_weights(model, given, source="'net.pth'", head=lambda: frozenset())
    assert same(model, {k: v.to(state[k].dtype) for k, v in given.items()})


def test_a_counter_may_have_any_integer_type(state: dict[str, Tensor]) -> None:
    counter, model = "bn1.num_batches_tracked", zoo.create("cifar_resnet20")
    for value in (torch.tensor(7.0), torch.tensor(7, dtype=torch.uint8)):
        fit_weights(model, state | {counter: value}, source="'net.pth'", head=lambda: frozenset())
        assert model.state_dict()[counter] == 7
    for wrong in (torch.tensor(7.5), torch.tensor(torch.nan)):
        assert f"{counter} holds numbers that do not fit int64" in fit("cifar_resnet20", state | {counter: wrong})


def test_a_mask_may_be_infinite_like_the_models() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0, -torch.inf]))

    model = Masked()
    fit_weights(model, {"mask": torch.tensor([0, -torch.inf])}, source="'net.pth'", head=lambda: frozenset())
    with pytest.raises(WeightsError, match=r"mask has NaN or infinity in 1 of 2"):
        fit_weights(model, {"mask": torch.tensor([torch.inf, 0])}, source="'net.pth'", head=lambda: frozenset())


# Files that lie


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**7)}, tmp_path / "large.pth")
    with (
        zipfile.ZipFile(tmp_path / "large.pth") as source,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert (tmp_path / "small.pth").stat().st_size < 10**6
    with pytest.raises(WeightsError, match="it holds compressed or overlapping parts"):
        read_weights(tmp_path / "small.pth")


def test_a_pickle_cannot_demand_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data.pkl", b"\x80\x02c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.")  # 2 GB
    with pytest.raises(WeightsError, match="it creates byte arrays"):
        read_weights(tmp_path / "a.pth")


def test_an_expanded_view_of_one_number_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(first(state, lambda w: w[:1, :1, 0, 0].expand(10**6, 10**6)), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"conv1\.weight is \(1000000, 1000000\), not \(16, 3, 3, 3\)"):
        zoo.create("cifar_resnet20", weights=tmp_path / "net.pth")


@pytest.mark.parametrize("length", [99_000_000, 2**63])
def test_an_absurdly_long_header(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(WeightsError, match="its header has more than 10,000,000 bytes"):
        read_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("mean", ["[" * 9000, "[1e999, 0, 0]", "[NaN, 0, 0]", f"[1{'0' * 400}, 0, 0]", "null", '"abc"'])
def test_a_normalisation_without_valid_numbers(tmp_path: Path, mean: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"mean": mean, "std": "[1, 1, 1]"})
    with pytest.raises(WeightsError, match="that do not fit"):
        read_weights(tmp_path / "a.safetensors")


def test_tensor_names_that_are_not_text(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="name, 1, is not a string"):
        read_weights(tmp_path / "a.pth")


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    for name, kind in (("pipe", "pipe"), ("loop", "link to nothing"), ("folder", "folder")):
        with pytest.raises(WeightsError, match=rf"{name}\.pth' is not a weights file but a .*{kind}"):
            read_weights(tmp_path / f"{name}.pth")
    for name in ("a" * 300, "\0", "", "\udcff", "/dev/zero"):
        with pytest.raises(WeightsError, match=r"not a weights file|There is no weights file"):
            read_weights(name)


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
    assert "it lacks 1 name (bn1.weight), and 1 name (fc.weight) is unknown to the model." in said
    said = fit("cifar_resnet32", zoo.create("cifar_resnet20").state_dict())
    assert "it lacks 60 names (layer1.3.conv1.weight, layer1.3.bn1.weight, layer1.3.bn1.bias, …)." in said


def test_shapes_that_do_not_fit(state: dict[str, Tensor]) -> None:
    said = fit("cifar_resnet20_x2", state)
    assert "shapes differ (conv1.weight is (16, 3, 3, 3), not (32, 3, 3, 3); " in said
    assert "--reset-head" not in said


def test_a_head_of_another_size(state: dict[str, Tensor]) -> None:
    assert "its head has 10 classes, but the model has 100. `--reset-head`" in fit(
        "cifar_resnet20", state, num_classes=100
    )


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
    with pytest.raises(WeightsError, match="its head has 6 classes, but the model has 3"):
        zoo.create(name, num_classes=3, weights=tmp_path / "six.safetensors")
    model = zoo.create(name, num_classes=3, weights=tmp_path / "six.safetensors", reset_head=True)
    fresh = {f"{head}.weight", f"{head}.bias"}
    assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items() if k not in fresh)
    spec = zoo.describe(model)
    assert spec is not None and spec.weights.endswith("…), head fresh")
    # The same number of classes is no reason to keep the head that one asked to reset.
    six = zoo.create(name, num_classes=6, weights=tmp_path / "six.safetensors", reset_head=True)
    assert not torch.equal(six.state_dict()[f"{head}.weight"], state[f"{head}.weight"])


def test_reset_head_needs_an_identifiable_head(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="cannot be identified"):
        fit_weights(zoo.create("cifar_resnet20"), state, source="'net.pth'", head=lambda: frozenset(), reset_head=True)


# Weights as trainings leave them


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def inside(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Names as a part that torch has wrapped by itself leaves them."""
    return {name.replace("layer2.", f"layer2.{part}"): tensor for name, tensor in state.items()}


LEFT = {
    "compiled": (lambda s: prefixed(s, "_orig_mod."), "stripped '_orig_mod.'"),
    "compiled in parallel": (
        lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
        "stripped '_orig_mod.' and 'module.'",
    ),
    "a part compiled": (lambda s: inside(s, "_orig_mod."), "stripped '_orig_mod.'"),
    "sharded": (lambda s: inside(prefixed(s, "_fsdp_wrapped_module."), "_fsdp_wrapped_module."), "stripped '_fsdp_"),
    "Lightning": (
        lambda s: {"state_dict": {**prefixed(s, "net."), "loss.weight": torch.ones(10)}, "epoch": 1},
        "stripped 'net.'; ignored loss.weight",
    ),
    "any prefix": (lambda s: prefixed(s, "learner.body."), "stripped 'learner.body.'"),
    "SWA": (
        lambda s: {"n_averaged": torch.tensor(3), **prefixed(s, "module.")},
        "stripped 'module.'; ignored n_averaged",
    ),
    "a counter alone": (lambda s: {"n_averaged": torch.tensor(3), **s}, "ignored n_averaged"),
    "an optimizer": (
        lambda s: {"params": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{}]}},
        "took 'params'",
    ),
    "deep": (lambda s: {"trainer": {"agent": s}}, "took 'trainer.agent'"),
    "mixed": (lambda s: {**s, "epoch": 3, "best": "93.1"}, ""),
    "an average": (
        lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "model_ema": prefixed(s, "module.")},
        "took 'model_ema' of 'model_ema', 'state_dict'; stripped 'module.'",
    ),
    "an average by prefix": (
        lambda s: prefixed({k: v + 1 for k, v in s.items()}, "online_model.") | prefixed(s, "ema_model."),
        "took 'ema_model' of 'ema_model', 'online_model'; stripped 'ema_model.'; ignored online_model.",
    ),
    "one of two architectures": (
        lambda s: {"teacher": zoo.create("cifar_resnet20_x2").state_dict(), "student": s},
        "took 'student'",
    ),
}


@pytest.mark.parametrize("kind", LEFT)
def test_weights_as_training_scripts_save_them(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    held, said = LEFT[kind]
    torch.save(held(state), tmp_path / "net.pth")
    model = zoo.create("cifar_resnet20", weights=tmp_path / "net.pth")
    assert same(model, state)
    spec = zoo.describe(model)
    assert spec is not None
    notes = spec.weights.partition("…)")[2]
    assert notes.startswith(f"; {said}") if said else not notes


def test_two_networks_in_a_file_are_ambiguous(tmp_path: Path, state: dict[str, Tensor]) -> None:
    other = {name: tensor + 1 for name, tensor in state.items()}
    torch.save(prefixed(state, "query.") | prefixed(other, "key."), tmp_path / "net.pth")
    with pytest.raises(
        WeightsError, match=r"several networks that fit this model: 'key' and 'query'\. .*--weights-key"
    ):
        zoo.create("cifar_resnet20", weights=tmp_path / "net.pth")
    assert same(zoo.create("cifar_resnet20", weights=tmp_path / "net.pth", weights_key="query"), state)


def test_an_explicit_key_precedes_an_average(tmp_path: Path, state: dict[str, Tensor]) -> None:
    average = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"state_dict": prefixed(state, "module."), "state_dict_ema": average}, tmp_path / "net.pth")
    assert same(zoo.create("cifar_resnet20", weights=tmp_path / "net.pth"), average)
    assert same(zoo.create("cifar_resnet20", weights=tmp_path / "net.pth", weights_key="state_dict"), state)
    with pytest.raises(WeightsError, match=r"no weights under 'ema'\. It holds 'state_dict', .*'state_dict_ema'"):
        zoo.create("cifar_resnet20", weights=tmp_path / "net.pth", weights_key="ema")


def test_plain_data_beside_weights_is_accepted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    beside = {"args": argparse.Namespace(lr=0.1, out=tmp_path), "best": np.float64(0.9), "log": np.arange(3)}
    torch.save({"state_dict": state, **beside, "at": datetime.datetime.now()}, tmp_path / "net.pth.tar")
    assert same(zoo.create("cifar_resnet20", weights=tmp_path / "net.pth.tar"), state)


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save({"model": zoo.create("cifar_resnet20")}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="pickled code"):
        zoo.create("cifar_resnet20", weights=tmp_path / "net.pth")


def test_an_index_of_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"is the index of weights .* Load the parts with"):
        zoo.create("cifar_resnet20", weights=tmp_path / "model.safetensors.index.json")


def test_the_head_determines_the_class_count(tmp_path: Path) -> None:
    save_file(zoo.create("timm:test_resnet", num_classes=4).state_dict(), tmp_path / "four.safetensors")
    with pytest.raises(
        WeightsError, match=r"head has 4 classes, but the model has 1000\. `--num-classes 4` .*`--reset-head`"
    ):
        zoo.create("timm:test_resnet", weights=tmp_path / "four.safetensors")


def test_weights_without_a_head_say_so(tmp_path: Path, state: dict[str, Tensor]) -> None:
    body = {name: tensor for name, tensor in state.items() if not name.startswith("linear.")}
    torch.save(prefixed(body, "backbone."), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"lacks 2 names \(linear\.weight, linear\.bias\)\. `--reset-head`"):
        zoo.create("cifar_resnet20", weights=tmp_path / "net.pth")
    assert zoo.create("cifar_resnet20", weights=tmp_path / "net.pth", reset_head=True)


def test_a_number_too_large_for_half_precision(state: dict[str, Tensor]) -> None:
    model = zoo.create("cifar_resnet20").half()
    with pytest.raises(WeightsError, match=r"conv1\.weight has NaN or infinity in 432 of 432"):
        fit_weights(model, first(state, lambda w: w + 1e5), source="'net.pth'", head=lambda: frozenset())
    fit_weights(model, first(state, lambda w: w * -0.0), source="'net.pth'", head=lambda: frozenset())


STATED = {
    "beside": lambda s: {"state_dict": s, "mean": [0.1, 0.2, 0.3], "std": torch.tensor([0.4, 0.5, 0.6])},
    "a layer": lambda s: (
        prefixed(s, "1.") | {"0.mean": torch.tensor([0.1, 0.2, 0.3]), "0.std": torch.tensor([0.4, 0.5, 0.6])}
    ),
    "mu and sigma": lambda s: (
        prefixed(s, "net.")
        | {
            "mu": torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1),
            "sigma": torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1),
        }
    ),
}


@pytest.mark.parametrize("kind", STATED)
def test_a_normalisation_in_a_torch_file(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    torch.save(STATED[kind](state), tmp_path / "net.pth")
    found = zoo.normalization(zoo.create("cifar_resnet20", weights=tmp_path / "net.pth"))
    assert found is not None and found.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert found.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_unrelated_statistics_are_not_a_normalisation(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"state_dict": state, "mean": 12.5, "std": 3.0}, tmp_path / "net.pth")
    found = zoo.normalization(zoo.create("cifar_resnet20", weights=tmp_path / "net.pth"))
    assert found is not None and found.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
