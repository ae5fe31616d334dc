"""Damaged, foreign, newer and hostile files: one clear error, and no code of theirs is run."""

import json
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks.saved import Own, X, load
from safetensors.torch import save_file

import perturbify
from perturbify import PerturbConfig, checkpoint, zoo
from perturbify.checkpoint import container
from perturbify.checkpoint.header import Header
from perturbify.errors import CheckpointError, ModelError, PerturbifyError


def header_of(path):
    return json.loads(container.peek(path).metadata["perturbify"])


def rewritten(good, path, tensors=lambda t: t, **fields):
    """A copy of a good file with another header or other tensors, sealed as it is: by somebody who means it."""
    header = header_of(good) | fields
    container.write(path, tensors(dict(container.read(good).tensors)), {"perturbify": json.dumps(header)})
    return path


quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(data=st.data())
def test_a_truncated_file_is_always_a_checkpoint_error(data, good, path):
    whole = good.read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:length])
    for read in (load, checkpoint.read_header, container.read, container.peek):
        with pytest.raises(CheckpointError, match=r"model\.safetensors is not a complete safetensors file"):
            read(path)
    with pytest.raises(CheckpointError):
        checkpoint.annotate(path, trained={})
    assert path.read_bytes() == whole[:length]


@quick
@given(garbage=st.binary(max_size=400))
def test_garbage_is_always_a_checkpoint_error(garbage, path):
    path.write_bytes(garbage)
    with pytest.raises(CheckpointError):
        load(path)


@settings(quick, max_examples=150)
@given(data=st.data())
def test_a_changed_header_byte_raises_only_known_errors(data, good, path):
    whole = bytearray(good.read_bytes())
    head = 8 + int.from_bytes(whole[:8], "little")
    whole[data.draw(st.integers(0, head - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        network = load(path)
    except PerturbifyError:
        return
    network(X.to(network.conv.weight.dtype))


def test_a_foreign_safetensors_file(path):
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"not a perturbify checkpoint.*--weights FILE"):
        load(path)
    save_file({"w": torch.zeros(2)}, path, {"format": "pt", "theirs": "x"})
    with pytest.raises(CheckpointError, match="not a perturbify checkpoint"):
        checkpoint.read_header(path)


def test_a_pickle_is_not_opened(path):
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load(path)


def test_a_missing_file_suggests_the_nearest(good):
    with pytest.raises(CheckpointError, match=r"There is no file .*modle\.safetensors.*'model\.safetensors'"):
        load(good.with_name("modle.safetensors"))
    with pytest.raises(CheckpointError, match="There is no file"):
        load(good.parent / "nowhere" / "model.safetensors")
    with pytest.raises(CheckpointError, match="There is no file"):
        load(good.parent)


@pytest.mark.parametrize("version", [4, 99, 1e9])
def test_a_file_from_a_newer_version(version, good, path):
    with pytest.raises(CheckpointError, match=r"has checkpoint format .*reads formats up to 3.*newer perturbify"):
        load(rewritten(good, path, format=version, unheard_of=[1]))


DEEP = "[" * 200_000
NOT_JSON = ["", "null", "[]", "{", "3", '"x"', DEEP, '{"format": 1}', '{"format": "1"}', '{"format": null}', "{}"]


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda t: t[:16])
def test_invalid_metadata(text, path):
    save_file({"w": torch.zeros(2)}, path, {"perturbify": text})
    with pytest.raises(CheckpointError, match=r"The metadata of .* is damaged"):
        load(path)


WRONG = {
    "model": ["x", [], {"name": "timm:test_resnet"}, {"name": 3, "kwargs": {}, "weights": ""}, {"kwargs": None}],
    "source_class": [None, 3, []],
    "inputs": [
        None,
        [],
        {"x": []},
        {"x": {}},
        {"x": {"shape": "3"}},
        {"x": {"shape": [3, -6, 6]}},
        {"x": {"shape": [3, 6.5, 6]}},
        {"x": {"shape": [True, 6, 6]}},
    ],
    "dtype": [None, "load", "int8", "float31", ["float32"]],
    "config": [[], "x", {"grain": "fine"}, {"theta_min": -1.0}, {"nonsense": 1}, {"include": 3}, {"theta_init": "x"}],
    "sites": [None, {}, [3], [{}], [{"path": "conv.perturb"}]],
    "normalize": [[], {"mean": [0.5]}, {"mean": [0.5], "std": [0.0]}, {"mean": 0.5, "std": 0.2}, {"x": [1.0]}],
    "classes": ["abc", [1], {}],
    "method": [3, []],
    "recipe": [3, {}],
    "trained": [None, [], {"epochs": "many"}],
    "check": ["x", []],
    "aliases": [None, [], {"a": 3}],
    "versions": [None, [], {"torch": 2}],
    "format": [0.5, True, "2", -3],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in WRONG.items() for v in values], ids=str)
def test_invalid_metadata_fields(field, value, good, path):
    rewritten(good, path, **{field: value})
    for read in (checkpoint.read_header, load):
        with pytest.raises(CheckpointError, match=r"The metadata of .* is damaged.*Download the file again"):
            read(path)


@pytest.mark.parametrize("field", Header.__dataclass_fields__)
def test_a_missing_field(field, good, path):
    header = header_of(good)
    del header[field]
    container.write(path, container.read(good).tensors, {"perturbify": json.dumps(header)})
    with pytest.raises(CheckpointError, match=field):
        load(path)


def changed(**tensors):
    return lambda t: {k: v for k, v in (t | tensors).items() if v is not None}


MISFITS = {
    "missing weight": {"head.weight": None},
    "missing θ": {"conv.perturb.theta": None},
    "missing count": {"norm.num_batches_tracked": None},
    "extra": {"more": torch.zeros(2)},
    "extra θ": {"head.perturb.theta": torch.zeros(3)},
    "shape": {"head.weight": torch.zeros(3, 5)},
    "θ's shape": {"conv.perturb.theta": torch.zeros(4, 1, 1)},
    "integers": {"head.weight": torch.zeros(3, 4, dtype=torch.int32)},
    "a count with a fraction": {"norm.num_batches_tracked": torch.tensor(0.5)},
    "eight bits": {"head.weight": torch.zeros(3, 4).to(torch.float8_e4m3fn)},
    "complex": {"head.weight": torch.zeros(3, 4, dtype=torch.complex64)},
}


@pytest.mark.parametrize("what", MISFITS)
def test_tensors_that_do_not_fit(what, good, path):
    rewritten(good, path, changed(**MISFITS[what]))
    with pytest.raises(CheckpointError, match=next(iter(MISFITS[what])).replace(".", r"\.")):
        load(path)


def renamed(tensors):
    return {k.replace("conv.perturb.", "stem.perturb."): t for k, t in tensors.items()}


def test_sites_that_the_network_does_not_have(good, path):
    site = {"name": "stem", "path": "stem.perturb", "map_shape": [4, 4, 4], "theta_shape": [4, 4, 4]}
    with pytest.raises(
        CheckpointError,
        match=r"first that differs: conv\.perturb .* here, stem\..* in the file\. It was written with",
    ):
        load(rewritten(good, path, renamed, sites=[site]))
    site = {"name": "conv", "path": "conv.perturb", "map_shape": [4, 9, 9], "theta_shape": [4, 9, 9]}
    other = changed(**{"conv.perturb.theta": torch.ones(4, 9, 9)})
    with pytest.raises(
        CheckpointError,
        match=r"first that differs: conv\.perturb .*4, 4, 4.* here, conv\.perturb .*4, 9, 9.* in the file",
    ):
        load(rewritten(good, path, other, sites=[site]))


@pytest.mark.parametrize(
    "name", ["os:system", "builtins:exec", "perturbify.zoo:create", "os", "resnet18", "TIMM:resnet18", "", ":", "a:b:c"]
)
def test_functions_named_in_a_file_are_never_run(name, good, path, monkeypatch, tmp_path):
    ran = tmp_path / "ran"
    monkeypatch.setattr(zoo, "build", lambda spec: pytest.fail(f"{spec.name} was built"))
    kwargs = {"command": f"touch {ran}"}
    rewritten(good, path, model={"name": name, "kwargs": kwargs, "weights": "fresh"})
    with pytest.raises(CheckpointError, match=r"needs to run .*trust_factory=True"):
        perturbify.load(path)
    assert not ran.exists()


def test_modules_named_in_a_file_are_never_imported(good, path, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    rewritten(good, path, model={"name": "evil_module:make", "kwargs": {}, "weights": "fresh"})
    with pytest.raises(CheckpointError, match="needs to run evil_module:make"):
        perturbify.load(path)
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("library", ["timm:test_resnet", "torchvision:resnet18"])
@pytest.mark.parametrize("argument", ["pretrained", "checkpoint_path", "weights", "weights_backbone"])
def test_a_file_cannot_trigger_downloads_or_unpickling(library, argument, good, path, tmp_path):
    (tmp_path / "evil.pth").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    kwargs = {argument: str(tmp_path / "evil.pth")}
    rewritten(good, path, model={"name": library, "kwargs": kwargs, "weights": "fresh"})
    with pytest.raises(ModelError, match=f"does not accept '{argument}' here"):
        perturbify.load(path)


@pytest.mark.parametrize("name", ["timm:hf-hub:someone/net", "timm:local-dir:/tmp", "timm:nothing", "perturbify:os"])
def test_a_name_that_its_library_lacks(name, good, path):
    rewritten(good, path, model={"name": name, "kwargs": {}, "weights": "fresh"})
    with pytest.raises(ModelError, match="There is no model"):
        perturbify.load(path)


def test_a_baseline_has_no_sites(path):
    perturbify.save(perturbify.wrap(Own(), None, example_input=X), path)
    assert not list(perturbify.perturbations(load(path)))
    assert PerturbConfig() not in (checkpoint.read_header(path).config, None)
