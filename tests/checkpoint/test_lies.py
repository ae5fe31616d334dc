"""Files that contradict themselves or ask for too much, sealed by whoever made them so: one sentence, at no cost."""

import json
import subprocess
import sys
import time
import warnings

import pytest
import torch
from networks.saved import load
from safetensors.torch import save_file

import perturbify
from perturbify import PerturbConfig, checkpoint, zoo
from perturbify.checkpoint import container
from perturbify.errors import CheckpointError, PerturbifyError

KEY, SEAL = "perturbify", "perturbify-seal"


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A checkpoint of a network that the file itself can build."""
    path = tmp_path_factory.mktemp("named") / "model.safetensors"
    torch.manual_seed(0)
    model = zoo.create("cifar_resnet20", num_classes=10)
    config = PerturbConfig("channel")
    net = perturbify.wrap(
        model, config, example_input=torch.rand(2, 3, 8, 8), normalize=perturbify.Normalize([0.5] * 3, [0.2] * 3)
    )
    perturbify.save(net, path, classes=list("abcdefghij"))
    return path


def changed(good, path, change, *, seal=True):
    """A copy of a file with its header and tensors changed; ``seal=False`` leaves it the old seal."""
    contents = container.read(good)
    old = container.seal(contents.metadata, contents.tensors)
    header, tensors = json.loads(contents.metadata[KEY]), dict(contents.tensors)
    change(header, tensors)
    text = json.dumps(header)
    if seal:
        container.write(path, tensors, {KEY: text})
    else:
        save_file(tensors, path, {"format": "pt", KEY: text, SEAL: old})
    return path


def test_any_change_behind_the_seal_is_noticed(named, path):
    def weight(header, tensors):
        tensors["conv1.weight"][0, 0, 0, 0] += 1e-3

    def rename(header, tensors):
        tensors["conv2.weight"] = tensors.pop("conv1.weight")

    def kind(header, tensors):
        tensors["conv1.weight"] = tensors["conv1.weight"].view(torch.int32)

    def shape(header, tensors):
        tensors["conv1.weight"] = tensors["conv1.weight"].reshape(-1)

    def classes(header, tensors):
        header["classes"][3] = "e"

    for change in (weight, rename, kind, shape, classes):
        changed(named, path, change, seal=False)
        for read in (perturbify.load, checkpoint.read, lambda p: checkpoint.annotate(p, trained={})):
            with pytest.raises(CheckpointError, match=r"was changed after it was written.*Download it again"):
                read(path)


def test_a_file_cannot_lose_its_seal(named, path):
    contents = container.read(named)
    save_file(dict(contents.tensors), path, dict(contents.metadata))
    with pytest.raises(CheckpointError, match="has lost its seal"):
        perturbify.load(path)


def test_a_format_1_file_is_reported_as_unsealed(named, path):
    contents = container.read(named)
    header = json.loads(contents.metadata[KEY]) | {"format": 1}
    del header["dtypes"]
    save_file(dict(contents.tensors), path, {KEY: json.dumps(header)})
    with pytest.warns(UserWarning, match=r"is not sealed: an earlier version wrote it"):
        perturbify.load(path)
    checkpoint.annotate(path, trained={"epochs": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perturbify.load(path)


def at(*keys, value):
    """Sets one entry of a header."""

    def change(header, tensors):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


def tensor(key, value):
    return lambda header, tensors: tensors.__setitem__(key, value(tensors[key]) if callable(value) else value)


def both(*changes):
    return lambda header, tensors: [change(header, tensors) for change in changes]


def spoiled(number):
    def put(t):
        t.view(-1)[0] = number
        return t

    return put


LIES = {
    "a weight that is not a number": (tensor("conv1.weight", spoiled(float("nan"))), "1 of 432 numbers in conv1"),
    "an infinite weight": (tensor("linear.bias", spoiled(float("inf"))), "1 of 10 numbers in linear.bias"),
    "an infinite variance": (tensor("bn1.running_var", spoiled(float("inf"))), "running_var are not finite"),
    "θ below zero": (tensor("conv1.perturb.theta", spoiled(-0.1)), "conv1.perturb.theta must be positive"),
    "θ of zero": (tensor("conv1.perturb.theta", torch.zeros_like), "conv1.perturb.theta must be positive"),
    "θ that is not a number": (tensor("conv1.perturb.theta", spoiled(float("nan"))), "has entries that are not finite"),
    "another dtype than it says": (tensor("conv1.weight", torch.Tensor.double), "conv1.weight is float64, but"),
    "half of it": (tensor("conv1.weight", torch.Tensor.half), "conv1.weight is float16, but the header says float32"),
    "a dtype of nothing": (at("dtypes", "x", value="float16"), "names a dtype for x, which is missing"),
    "an alias over a tensor": (at("aliases", "conv1.weight", value="bn1.weight"), "conv1.weight is both an alias and"),
    "an alias of nothing": (at("aliases", "x", value="y"), "the tensor y is missing"),
    "an alias of an alias": (
        both(at("aliases", "x", value="y"), at("aliases", "y", value="bn1.weight")), "the tensor y is missing"
    ),
    "weights so large that it answers with NaN": (tensor("conv1.weight", lambda t: t * 1e38), "are not finite"),
    "a class more": (at("classes", value=list("abcdefghijk")), "has 11 class names, but its network has 10 logits"),
    "a class less": (at("classes", value=list("abcdefghi")), "has 9 class names, but its network has 10 logits"),
    "another mean": (at("normalize", "mean", value=[0.5, 0.5, 0.4]), "normalize.mean differs from the header"),
    "another mean inside": (tensor("normalize.mean", lambda t: t + 0.1), "normalize.mean differs from the header"),
    "a mean less": (at("normalize", value={"mean": [0.5], "std": [0.2]}), "normalize.mean does not have the 1 numbers"),
    "no normalisation": (at("normalize", value=None), "has unknown keys: normalize.mean, normalize.std"),
    "two sites of one name": (
        lambda h, t: h["sites"][1].update(name=h["sites"][0]["name"]), "two sites share the name 'conv1'"
    ),
    "a site twice": (lambda h, t: h["sites"].append(h["sites"][0]), "two sites share the name 'conv1'"),
    "a site less": (lambda h, t: h["sites"].pop(), "has unknown"),
    "θ of another shape": (at("sites", 0, "theta_shape", value=[16, 2, 2]), "θ of 'conv1' has shape"),
    "another feature map": (at("sites", 0, "map_shape", value=[16, 9, 9]), "the first that differs"),
    "another name of a site": (at("sites", 0, "name", value="stem"), "does not fit its network"),
    "a size that is no integer": (at("sites", 0, "theta_shape", value=[16.0, 1, 1]), "a size is not an integer"),
    "sites without noise": (at("config", value=None), "config is null, but there are 19 sites"),
    "another input": (at("inputs", "x", "shape", value=[3, 16, 16]), "the first that differs"),
    "another class": (at("source_class", value="torchvision.models.resnet.ResNet"), "holds a torchvision.models"),
    "another network": (at("model", "name", value="perturbify:cifar_resnet32"), "does not fit its network: it lacks"),
    "another width": (at("model", "kwargs", value={"num_classes": 9}), "linear.weight has shape"),
    "θ₀ below the floor": (at("config", "theta_init", value=0.001), "theta_init 0.001 must be finite"),
    "θ too large": (tensor("conv1.perturb.theta", spoiled(3e38)), "entries that are not finite or greater"),
    "θ of integers": (tensor("conv1.perturb.theta", torch.Tensor.int), "conv1.perturb.theta is torch.int32"),
    "θ of eight bits": (tensor("conv1.perturb.theta", lambda t: t.to(torch.float8_e4m3fn)), "is float8_e4m3fn, which"),
    "complex θ": (tensor("conv1.perturb.theta", lambda t: t.to(torch.complex64)), "theta is torch.complex64"),
    "half, and it says so": (
        both(tensor("conv1.weight", torch.Tensor.half), at("dtypes", "conv1.weight", value="float16")), "itself fails"
    ),
    "a dtype of an alias": (
        both(at("aliases", "a", value="bn1.bias"), at("dtypes", "a", value="float64")), "names a dtype for a,"
    ),
    "a class of another library": (at("source_class", value="os.system.CifarResNet"), "holds a os.system.CifarResNet"),
    "positional inputs that are none": (at("inputs", value={"*": {"value": 5}}), "inputs that are not a list"),
    "a format of many digits": (at("format", value=10**400), "the number 1000000"),
    "a mean of many digits": (at("normalize", "mean", value=[10**400, 0.5, 0.5]), "the number 1000000"),
    "lists within lists": (at("inputs", "y", value=json.loads('{"list":[' * 60 + "]}" * 60)), "nested deeper than 32"),
    "a verdict without figures": (at("check", value={"verdict": "established", "passed": True}), "check"),
    "a device": (at("model", "kwargs", value={"num_classes": 10, "device": "meta"}), "given 'device', which a file"),
    "a field more": (at("more", value=1), "must not contain {'more'} properties"),
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
def test_a_file_that_contradicts_itself(what, named, path):
    change, said = LIES[what]
    changed(named, path, change)
    with pytest.raises(PerturbifyError) as error:
        perturbify.load(path)
    assert said in str(error.value)


RAW = {
    "a key twice": ('"format": 3', '"format": 1, "format": 3', "the key 'format' twice"),
    "NaN": ('"theta_min": 0.01', '"theta_min": NaN', "the number NaN"),
    "infinity": ('"theta_min": 0.01', '"theta_min": 1e999', "the number 1e999"),
    "half a surrogate": ('"abc', '"\\ud800abc', ""),
    "many digits": ('"theta_min": 0.01', f'"theta_min": {"1" * 100_000}', ""),
}


@pytest.mark.parametrize("what", RAW)
def test_json_that_can_be_read_two_ways(what, named, path):
    old, new, said = RAW[what]
    contents = container.read(named)
    text = contents.metadata[KEY].replace('"a", "b"', '"abc", "b"').replace(old, new)
    assert text != contents.metadata[KEY]
    container.write(path, contents.tensors, {KEY: text})
    with pytest.raises(CheckpointError, match=f"The metadata of .* is damaged: {said}"):
        checkpoint.read(path)


def test_a_tensor_named_twice(named, path):
    whole = named.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    text = json.dumps(json.loads(whole[8:head])["bn1.bias"])
    header = whole[8:head].rstrip().removesuffix(b"}") + f', "bn1.bias": {text}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + whole[head:])
    with pytest.raises(CheckpointError, match=r"not a complete safetensors file \(the key 'bn1.bias' twice\)"):
        perturbify.load(path)


BOMBS = {
    "many blocks": lambda h, t: h.update(
        model={"name": "timm:convnext_tiny", "kwargs": {"depths": [9_999] * 3_000}, "weights": ""}
    ),
    "a size that no number fills": lambda h, t: (
        t.update(zz=torch.empty(0, 10**9)),
        h.update(model={"name": "timm:vit_tiny_patch16_224", "kwargs": {"depth": 10**9}, "weights": ""}),
    ),
    "buffers": lambda h, t: h.update(
        model={
            "name": "timm:swin_tiny_patch4_window7_224",
            "kwargs": {"window_size": 96, "img_size": 1_536},
            "weights": "",
        }
    ),
    "tensors of nothing": lambda h, t: t.update({f"z{i}": torch.empty(0) for i in range(30_000)}),
    "blocks of nothing": lambda h, t: (
        t.update({f"z{i}": torch.empty(0) for i in range(10_000)}),
        h.update(
            model={"name": "timm:vit_tiny_patch16_224", "kwargs": {"depth": 9_000, "embed_dim": 3}, "weights": ""}
        ),
    ),
    "different globs": lambda h, t: h["config"].update(
        include=[f"{i}*a*b*c*d*e*f*g*h" * 8 for i in range(1_000)], exclude=[f"{i}*z" for i in range(1_000)]
    ),
    "a large map that is none": lambda h, t: (
        h["inputs"]["x"].update(shape=[3, 2_300, 2_300]),
        h["sites"][0].update(map_shape=[16, 1_150, 1_000]),
    ),
    "classes": lambda h, t: h.update(classes=["x"] * 1_000_000),
    "a head of 10⁷ classes": lambda h, t: h["model"]["kwargs"].update(num_classes=10_000_000),
    "a layer of 10⁹ blocks": lambda h, t: h.update(
        model={"name": "timm:resnet18", "kwargs": {"layers": [10**9, 2, 2, 2]}, "weights": ""}
    ),
    "a layer of 9,999 blocks": lambda h, t: h.update(
        model={"name": "timm:resnet18", "kwargs": {"layers": [9_999, 2, 2, 2]}, "weights": ""}
    ),
    "wide layers": lambda h, t: h.update(
        model={"name": "timm:vit_base_patch16_224", "kwargs": {"embed_dim": 9_984, "num_heads": 1}, "weights": ""}
    ),
    "another, larger network": lambda h, t: h["model"].update(name="timm:vit_giant_patch14_224", kwargs={}),
    "a large input": lambda h, t: h["inputs"]["x"].update(shape=[3, 20_000, 20_000]),
    "a largish input": lambda h, t: h["inputs"]["x"].update(shape=[3, 4_000, 4_000]),
    "a large input and its maps": lambda h, t: (
        h["inputs"]["x"].update(shape=[3, 20_000, 20_000]),
        [s.update(map_shape=[s["map_shape"][0], *(n * 2_500 for n in s["map_shape"][1:])]) for s in h["sites"]],
    ),
    "many inputs": lambda h, t: h.update(inputs={str(i): {"shape": [3, 8, 8]} for i in range(10_000)}),
    "inputs within inputs": lambda h, t: h.update(inputs={"x": json.loads('{"list":[' * 200 + "]}" * 200)}),
    "an input of lists": lambda h, t: h["inputs"].update(x={"list": [{"list": [{"whole": [9]}] * 64}] * 64}),
    "copies of a site": lambda h, t: h.update(sites=h["sites"] * 10_000),
    "many sites": lambda h, t: h.update(
        sites=[h["sites"][0] | {"name": str(i), "path": str(i)} for i in range(20_000)]
    ),
    "θ₀ of many digits": lambda h, t: h["config"].update(theta_init="1" * 100_000 + "x"),
    "θ₀ of many zeros": lambda h, t: h["config"].update(theta_init="0" * 39 + "x"),
    "many globs": lambda h, t: h["config"].update(include=["*a*b*c*d*e*f*g*h*" * 12] * 5_000),
    "a name of many characters": lambda h, t: h.update(method="x" * 60_000),
    "a class of many characters": lambda h, t: h.update(classes=["x" * 60_000] * 10),
    "a recipe of many characters": lambda h, t: h.update(recipe="x" * 1_000_000),
    "versions": lambda h, t: h.update(versions={str(i): "1" for i in range(50_000)}),
    "aliases": lambda h, t: h.update(aliases={str(i): "conv1.weight" for i in range(50_000)}),
    "dtypes": lambda h, t: h.update(dtypes={str(i): "float16" for i in range(50_000)}),
    "kwargs": lambda h, t: h["model"].update(kwargs={str(i): 1 for i in range(50_000)}),
    "rows of a check": lambda h, t: h.update(check={"rows": [{}] * 100_000, "n": 1, "passed": True}),
    "empty objects": lambda h, t: h.update(check=[{}] * 450_000),
}

MEASURE = """
import json, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import perturbify
from perturbify import checkpoint, zoo
import timm, torchvision  # what a file names is imported before the clock runs

def peak():  # MB of this process, since it was last asked; ru_maxrss begins with the parent's
    text = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024

def measured(path):
    reads = {"load": lambda: perturbify.load(path), "read": lambda: checkpoint.read(path)}
    found = []
    for name, read in reads.items():
        started = time.process_time()
        try:
            read()
            said = None
        except perturbify.errors.PerturbifyError as error:
            said = str(error)
        found.append((name, time.process_time() - started, said))
    return found, peak()

zoo.create("timm:resnet18")
measured(sys.argv[1])
honest, before = measured(sys.argv[1])
for path in sys.argv[2:]:
    found, after = measured(path)
    print(json.dumps([path, found, [took for _, took, _ in honest], after - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_costly_file_is_refused_or_loads_cheaply(named, tmp_path):
    """2 seconds and 200 MB more at most, as docs/security.md promises."""
    paths = [changed(named, tmp_path / f"{k}.safetensors", change) for k, change in enumerate(BOMBS.values())]
    done = subprocess.run([sys.executable, "-c", MEASURE, named, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(BOMBS)
    for what, (_, found, honest, memory) in zip(BOMBS, rows, strict=True):
        assert memory < 200, f"{what}: {memory} MB"
        for (name, took, said), usual in zip(found, honest, strict=True):
            assert took < usual + 2, f"{what}: {name} took {took} s"
            assert said is None or len(said) < 2_000, what
        assert found[0][2] is not None, f"{what} was loaded"


def test_a_network_claiming_huge_images_is_not_run(named, path):
    """Nothing in such a file lies; to load it is cheap all the same, and what was not tried is said."""

    def larger(header, tensors):
        header["inputs"]["x"]["shape"] = [3, 1_024, 1_024]
        for site in header["sites"]:
            site["map_shape"] = [site["map_shape"][0], *(n * 128 for n in site["map_shape"][1:])]

    changed(named, path, larger)
    started = time.process_time()
    with pytest.warns(UserWarning, match="was loaded without running its network"):
        network = perturbify.load(path)
    found = perturbify.verify(path)
    assert time.process_time() - started < 4
    assert found.outcome == "not proved" and "its network was not run" in str(found)
    assert network(torch.rand(2, 3, 8, 8)).isfinite().all()


def test_a_huge_header_is_not_read(path):
    for length in (2**24 + 1, 2**62):
        with path.open("wb") as file:
            file.write(length.to_bytes(8, "little"))
            file.truncate(2**30)
        with pytest.raises(CheckpointError, match=r"its header has .* bytes; the maximum is"):
            checkpoint.read_header(path)


def test_an_unloadable_network_is_not_saved(path):
    from networks.saved import own

    for key, number, said in (("head.weight", float("nan"), "not finite"), ("conv.perturb.theta", 0.0, "positive")):
        net = own()
        net.state_dict()[key].fill_(number)
        with pytest.raises(PerturbifyError, match=said):
            perturbify.save(net, path)
    with pytest.raises(CheckpointError, match=r"is not written: it has 2 class names, but its network has 3 logits"):
        perturbify.save(own(), path, classes=["a", "b"])
    with pytest.raises(CheckpointError, match=r"'b\\udcff' cannot be stored in a checkpoint: it is not valid Unicode"):
        perturbify.save(own(), path, classes=["a", "b\udcff", "c"])
    assert not path.exists()


def test_a_network_with_two_dtypes_keeps_both(path):
    from networks.saved import own

    net = own().half()
    net.norm.float()
    header = perturbify.save(net, path)
    assert header.dtype == "float16" and header.dtypes.keys() == {
        f"norm.{k}" for k in ("weight", "bias", "running_mean", "running_var")
    }
    again = load(path)
    assert {k: v.dtype for k, v in again.state_dict().items()} == {k: v.dtype for k, v in net.state_dict().items()}


class Refining(torch.nn.Module):
    """Answers after as many rounds as it is told."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, rounds=2):
        for _ in range(rounds):
            x = self.conv(x).tanh()
        return x.mean((2, 3))


def test_a_network_that_never_finishes(path, tmp_path):
    config = PerturbConfig("channel", theta_per="module")
    net = perturbify.wrap(Refining(), config, example_input={"x": torch.rand(2, 3, 8, 8), "rounds": 3})
    perturbify.save(net, path)
    assert perturbify.load(path, model=Refining())
    endless = changed(path, tmp_path / "endless.safetensors", at("inputs", "rounds", "value", value=10**9))
    started = time.process_time()
    with pytest.raises(CheckpointError, match="does not terminate"):
        perturbify.load(endless, model=Refining())
    assert time.process_time() - started < 4


class Mixed(torch.nn.Module):
    """Half precision first, and full behind it."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3).half(), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.conv(x).float().mean((2, 3)))


def test_a_network_that_needs_its_own_dtypes(path):
    perturbify.save(perturbify.wrap(Mixed(), example_input=torch.rand(2, 3, 8, 8).half()), path)
    again = perturbify.load(path, model=Mixed())
    assert (again.conv.weight.dtype, again.head.weight.dtype) == (torch.float16, torch.float32)


class WithState(torch.nn.Sequential):
    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        pass


def test_state_dicts_with_non_tensors_are_not_saved(path):
    net = perturbify.wrap(WithState(torch.nn.Conv2d(3, 3, 3)), example_input=torch.rand(2, 3, 8, 8))
    with pytest.raises(CheckpointError, match="_extra_state is a dict, not a tensor"):
        perturbify.save(net, path)
