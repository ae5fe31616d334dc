"""One file holds the whole model: what is saved comes back, on its own, noisy, to the last bit."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import safetensors
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

import perturbify
from perturbify import Normalize, PerturbConfig, checkpoint, zoo
from perturbify.checkpoint import container
from perturbify.checkpoint.header import Header
from perturbify.errors import CheckpointError

SIZE = 16
X = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    """A network that no library knows, with tied weights, a shared convolution and a buffer that is a view."""

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.block = nn.Conv2d(width, width, 3, padding=1)
        self.twin = nn.Conv2d(width, width, 3, padding=1)
        self.twin.weight = self.block.weight
        self.head = nn.Linear(width, 3)
        self.register_buffer("flat", self.head.weight.detach().view(-1))

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.head(self.twin(self.block(self.block(x))).mean((2, 3))) + self.flat.sum()


FACTORY = """
import torch
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))
"""


@pytest.fixture(scope="module", autouse=True)
def factory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("factory")
    (folder / "my_nets.py").write_text(FACTORY)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("my_nets", None)


def lived_in(net):
    """Weights, statistics and θ as after training: all different."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in net.state_dict().items():
        if name.endswith("theta") or name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.01)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(17)
        elif not name.startswith("normalize.") and tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * 0.1)
    return net


def wrapped(net, config=None, *, bare=False, normalize=None):
    config = None if bare else config or PerturbConfig()
    torch.manual_seed(0)
    example = X.to(next(net.parameters()).dtype)
    return lived_in(perturbify.wrap(net, config, example_input=example, normalize=normalize))


def ours(config=None, **how):
    model = zoo.create("cifar_resnet20", num_classes=5)
    return wrapped(model, config, normalize=zoo.normalization(model), **how)


def untagged_timm():
    import timm

    return wrapped(timm.create_model("test_byobnet", num_classes=4))


def partly_double():
    """Wrapped in float32; later somebody moved one θ to double."""
    net = ours()
    net.conv1.perturb.theta.data = net.conv1.perturb.theta.data.double() / 3
    return net


TAGGED = {
    "ours": ours,
    "ours, channel": lambda: ours(PerturbConfig("channel", theta_init=0.5, theta_min=0.02)),
    "ours, layer, a draw a batch": lambda: ours(PerturbConfig("layer", draw_per="batch")),
    "ours, excluded": lambda: ours(PerturbConfig(exclude=("layer1.*", "conv1"), include=("*conv1",))),
    "ours, baseline": lambda: ours(bare=True),
    "ours, padding": lambda: wrapped(zoo.create("cifar_resnet20", num_classes=5, padding="end")),
    "ours, bfloat16": lambda: ours().to(torch.bfloat16),
    "ours, wrapped in bfloat16": lambda: wrapped(zoo.create("cifar_resnet20").to(torch.bfloat16)),
    "ours, one θ in another precision": partly_double,
    "timm": lambda: wrapped(zoo.create("timm:test_efficientnet", num_classes=4)),
    "timm, arguments": lambda: wrapped(zoo.create("timm:test_resnet", num_classes=4, drop_path_rate=0.2)),
    "timm, untagged": untagged_timm,
    "timm, CondConv": lambda: wrapped(zoo.create("timm:tf_efficientnet_cc_b0_4e", num_classes=4)),
    "torchvision, versioned modules": lambda: wrapped(zoo.create("torchvision:mnasnet0_5", num_classes=4)),
    "torchvision": lambda: wrapped(zoo.create("torchvision:shufflenet_v2_x0_5", num_classes=4)),
}


def assert_same_network(one, other):
    """The same tensors, and the same outputs with the noise off; with it on, no two outputs are."""
    state, loaded = one.state_dict(), other.state_dict()
    assert state.keys() == loaded.keys()
    for key, tensor in state.items():
        if not key.startswith("normalize."):  # kept in float32, of equal value
            assert tensor.dtype == loaded[key].dtype, key
        assert torch.equal(tensor.double(), loaded[key].double()), key
    assert dict(perturbify.perturbations(one)).keys() == dict(perturbify.perturbations(other)).keys()
    x = X.to(next(one.parameters()).dtype)
    was = one.training
    one.eval()
    with torch.no_grad():
        with perturbify.noise(one, False), perturbify.noise(other, False):
            assert torch.equal(one(x), other(x))
        if any(True for _ in perturbify.perturbations(other)):
            assert not torch.equal(other(x), other(x))
            torch.manual_seed(3)
            first = one(x)
            torch.manual_seed(3)
            assert torch.equal(first, other(x))
    one.train(was)


@pytest.mark.parametrize("name", TAGGED)
def test_a_saved_network_loads_unchanged(name, tmp_path):
    net = TAGGED[name]()
    path = tmp_path / "model.safetensors"
    written = perturbify.save(net, path)
    loaded = perturbify.load(path)
    assert not any(m.training for m in loaded.modules())
    assert all(p.enabled for _, p in perturbify.perturbations(loaded))
    assert_same_network(net, loaded)
    assert checkpoint.read_header(path) == written
    # Once more, from what was loaded: the same file.
    again = tmp_path / "again.safetensors"
    rewritten = perturbify.save(loaded, again)
    assert rewritten == written
    one, other = load_file(path), load_file(again)
    assert one.keys() == other.keys() and all(torch.equal(one[k].double(), other[k].double()) for k in one)


def test_a_users_network_must_be_passed_in(tmp_path):
    net = wrapped(Own())
    path = tmp_path / "own.safetensors"
    header = perturbify.save(net, path)
    assert header.model is None and header.source_class.endswith("Own")
    with pytest.raises(CheckpointError, match=r"does not say how to build.*Own.*model=network"):
        perturbify.load(path)
    mine = Own()
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    loaded = perturbify.load(path, model=mine)
    assert_same_network(net, loaded)
    assert mine.training and mine.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())
    with pytest.raises(CheckpointError, match=r"does not fit its network: flat has shape \[12\], not \[15\]"):
        perturbify.load(path, model=Own(width=5))


def test_the_passed_network_keeps_its_dtype_and_device(tmp_path):
    net = wrapped(Own()).to(torch.float64)
    path = tmp_path / "own.safetensors"
    perturbify.save(net, path)
    mine = Own()
    loaded = perturbify.load(path, model=mine)
    assert loaded.stem.weight.dtype == torch.float64
    assert mine.stem.weight.dtype == torch.float32
    assert_same_network(net, loaded)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    net = wrapped(Own())
    path = tmp_path / "own.safetensors"
    header = perturbify.save(net, path)
    assert header.aliases == {"twin.weight": "block.weight"}
    loaded = perturbify.load(path, model=Own())
    assert loaded.twin.weight is loaded.block.weight
    assert "twin.weight" not in load_file(path)


def test_views_are_stored_as_separate_tensors(tmp_path):
    net = wrapped(Own())
    net.flat.data = net.head.weight.data.view(-1)
    perturbify.save(net, tmp_path / "own.safetensors")
    stored = load_file(tmp_path / "own.safetensors")
    assert torch.equal(stored["flat"], stored["head.weight"].view(-1))


def test_a_factory_runs_only_if_trusted(tmp_path):
    net = wrapped(zoo.create("my_nets:make", width=6))
    path = tmp_path / "factory.safetensors"
    header = perturbify.save(net, path)
    assert header.model == {"name": "my_nets:make", "kwargs": {"width": 6}, "weights": "fresh"}
    with pytest.raises(CheckpointError, match=r"needs to run my_nets:make.*trust_factory=True"):
        perturbify.load(path)
    assert_same_network(net, perturbify.load(path, trust_factory=True))
    assert_same_network(net, perturbify.load(path, model=zoo.create("my_nets:make", width=6)))


def test_a_network_always_loads_in_eval_mode(tmp_path):
    net = ours().train()
    net.conv1.perturb.enabled = False
    perturbify.save(net, tmp_path / "m.safetensors")
    assert net.training and not net.conv1.perturb.enabled
    loaded = perturbify.load(tmp_path / "m.safetensors")
    assert not loaded.training and loaded.conv1.perturb.enabled


def test_the_file_is_plain_safetensors(tmp_path):
    net = ours()
    path = tmp_path / "model.safetensors"
    perturbify.save(net, path)
    with safetensors.safe_open(path, "np") as file:
        keys, metadata = set(file.keys()), file.metadata()
    source = set(zoo.create("cifar_resnet20").state_dict())
    thetas = {f"{name}.perturb.theta" for name, _ in perturbify.perturbations(net)}
    assert keys == source | thetas | {"normalize.mean", "normalize.std"}
    assert len(thetas) == 19
    assert metadata.keys() == {"format", "perturbify", "perturbify-seal"} and metadata["format"] == "pt"
    assert b"PK\x03\x04" not in path.read_bytes()[:4]  # nor a zip of pickles


CHECK = {
    **{"dataset": "digits", "preset": "quick", "n": 3, "seed": 0, "epsilon": 0.03, "verdict": "not established"},
    **{"worst_case": {"value": 0.5, "interval": [0.1, 0.9]}, "criteria": {"more steps": "undecided"}, "rows": []},
}


def test_the_metadata_is_complete(tmp_path):
    net = ours(PerturbConfig("channel", exclude=("linear",)))
    path = tmp_path / "model.safetensors"
    about = {
        "classes": ["a", "b", "c", "d", "ε"],
        "method": "learn2perturb",
        "recipe": "name = 'x'\n",
        "trained": {"epochs": 3},
    }
    perturbify.save(net, path, **about, check=CHECK)
    with safetensors.safe_open(path, "np") as file:
        told = json.loads(file.metadata()["perturbify"])
    assert told["format"] == 3
    assert told["model"] == {"name": "perturbify:cifar_resnet20", "kwargs": {"num_classes": 5}, "weights": "fresh"}
    assert told["source_class"] == "perturbify.zoo.cifar_resnet.CifarResNet"
    assert told["inputs"] == {"x": {"shape": [3, SIZE, SIZE]}}
    assert told["dtype"] == "float32"
    assert PerturbConfig(**told["config"] | {"include": (), "exclude": ("linear",)}) == net.surgery.plan.config
    assert len(told["sites"]) == 19
    assert told["sites"][0] == {
        "name": "conv1",
        "path": "conv1.perturb",
        "map_shape": [16, SIZE, SIZE],
        "theta_shape": [16, 1, 1],
    }
    assert told["normalize"]["mean"] == pytest.approx(zoo.facts.CIFAR_MEAN)
    assert {k: told[k] for k in about} == about and told["check"] == CHECK
    assert told["versions"].keys() == {"perturbify", "torch", "torchvision", "timm"}
    assert told["aliases"] == {}
    assert set(told) == set(Header.__dataclass_fields__)


ELSEWHERE = """
import json, sys
import torch
import perturbify
x = torch.load(sys.argv[2], weights_only=True)
model = perturbify.load(sys.argv[1])
assert "my_nets" not in sys.modules
with torch.no_grad():
    noisy = [model(x), model(x)]
    with perturbify.noise(model, False):
        print(json.dumps([model(x).tolist(), bool(torch.equal(*noisy)), model.training]))
"""


def test_loading_needs_nothing_but_the_file(tmp_path):
    net = ours().eval()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    perturbify.save(net, folder / "model.safetensors")
    torch.save(X, folder / "x.pt")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE, "model.safetensors", "x.pt"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    with torch.no_grad(), perturbify.noise(net, False):
        assert json.loads(done.stdout) == [net(X).tolist(), False, False]
    assert done.stderr == ""


def test_annotating_changes_the_metadata_only(tmp_path):
    path = tmp_path / "model.safetensors"
    perturbify.save(wrapped(Own()), path, classes=["a", "b", "c"])
    whole = container.read(path)
    tensors = whole.tensors
    container.write(path, tensors, {**whole.metadata, "theirs": "kept"})
    before = checkpoint.read_header(path)
    after = checkpoint.annotate(path, trained={"epochs": 3})
    assert after == checkpoint.read_header(path)
    assert after == replace(before, trained={"epochs": 3})
    assert container.peek(path).metadata["theirs"] == "kept"
    now = container.read(path).tensors
    assert now.keys() == tensors.keys() and all(torch.equal(now[k], tensors[k]) for k in now)
    with pytest.raises(TypeError, match="nonsense"):
        checkpoint.annotate(path, nonsense=1)
    assert checkpoint.read_header(path) == after


def test_loaded_tensors_survive_changes_to_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    perturbify.save(wrapped(Own()), path)
    tensors = container.read(path).tensors
    before = {k: v.clone() for k, v in tensors.items()}
    path.write_bytes(b"\0" * path.stat().st_size)
    assert all(torch.equal(tensors[k], before[k]) for k in before)


def test_an_unwrapped_network_cannot_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"Own is not a wrapped network.*perturbify\.wrap"):
        perturbify.save(Own(), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_that_takes_a_list_of_images(tmp_path):
    source = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 48)]
    net = perturbify.wrap(source, PerturbConfig("channel"), example_input=(images,))
    header = perturbify.save(net, tmp_path / "m.safetensors")
    assert header.inputs == {"images": {"list": [{"whole": [3, 64, 64]}, {"whole": [3, 64, 48]}]}}
    again = perturbify.load(tmp_path / "m.safetensors", model=source)
    with torch.no_grad(), perturbify.noise(net.eval(), False), perturbify.noise(again, False):
        for ours, theirs in zip(again(images), net(images), strict=True):
            assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


class Several(nn.Module):
    """Views by position, and options by name."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, *views, **options):
        total = sum(self.conv(v).mean((2, 3)) for v in (*views, *options.get("more", ())))
        return total * options.get("scale", 1)


@pytest.mark.parametrize(
    "example",
    [
        (X, X),
        {"more": [X[:1]], "scale": 2},
        {"more": [X, X], "scale": 0.5, "flag": True, "name": "a", "none": None, "ids": torch.ones(2, 5).long()},
    ],
    ids=["*args", "**kwargs", "all kinds"],
)
def test_inputs_of_every_kind(tmp_path, example):
    net = perturbify.wrap(Several(), PerturbConfig("channel"), example_input=example)
    perturbify.save(net, tmp_path / "m.safetensors")
    again = perturbify.load(tmp_path / "m.safetensors", model=Several())
    args, kwargs = ((), example) if isinstance(example, dict) else (example, {})
    with perturbify.noise(net.eval(), False), perturbify.noise(again, False):
        assert torch.equal(again(*args, **kwargs), net(*args, **kwargs))
    assert not torch.equal(again(*args, **kwargs), again(*args, **kwargs))


def test_inputs_that_cannot_be_described(tmp_path):
    net = perturbify.wrap(Several(), PerturbConfig("channel"), example_input={"more": {X}})
    with pytest.raises(CheckpointError, match=r"Several takes inputs that a file cannot describe.*state_dict"):
        perturbify.save(net, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_explicit_normalisation_is_restored(tmp_path):
    net = wrapped(Own(), normalize=Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)))
    path = tmp_path / "m.safetensors"
    header = perturbify.save(net, path)
    assert header.normalize == {"mean": pytest.approx([0.1, 0.2, 0.3]), "std": [1.0, 2.0, 3.0]}
    loaded = perturbify.load(path, model=Own())
    assert loaded.surgery.normalizes
    assert_same_network(net, loaded)


@pytest.mark.parametrize("theta_per", ["call", "module"])
def test_a_shared_convolution_keeps_its_thetas(theta_per, tmp_path):
    net = wrapped(Own(), PerturbConfig(theta_per=theta_per))
    path = tmp_path / "m.safetensors"
    header = perturbify.save(net, path)
    names = [s["name"] for s in header.sites]
    assert names == (["stem", "block", "block#1", "twin"] if theta_per == "call" else ["stem", "block", "twin"])
    assert_same_network(net, perturbify.load(path, model=Own()))


def test_the_header_survives_json(tmp_path):
    header = checkpoint.describe(ours())
    text = header.to_json()
    again = Header.from_json(text, tmp_path / "x")
    assert again.to_json() == text
    assert asdict(again).keys() == asdict(header).keys()
