"""Networks that were made from others: timm's feature extractors, torchvision's, and graphs of torch.fx."""

import copy
import pickle
from types import MethodType

import pytest
import timm
import torch
import torchvision
from torch import fx, nn
from torch.utils import _pytree as pytree
from torchvision.models.feature_extraction import create_feature_extractor

import perturbify
from perturbify import PerturbConfig
from perturbify.surgery.observe import ConvolutionCount


def features(name, **options):
    return lambda: timm.create_model(name, features_only=True, **options)


def extracted(name, nodes, **options):
    return lambda: create_feature_extractor(torchvision.models.get_model(name, weights=None, **options), nodes)


def densenet():
    network = torchvision.models.DenseNet(8, (2, 2, 2), 16, drop_rate=0.3, num_classes=5)
    return create_feature_extractor(network, ["features.denseblock2", "classifier"])


def traced():
    return fx.symbolic_trace(torchvision.models.get_model("resnet18", weights=None).eval())


EXTRACTORS = {
    "timm, resnet": (features("test_resnet"), 64),
    "timm, convnext": (features("test_convnext"), 64),
    "timm, vit": (features("test_vit"), 160),
    "timm, efficientnet": (features("test_efficientnet"), 64),
    "timm, mobilenetv3": (features("mobilenetv3_small_050"), 64),
    "timm, resnet by torch.fx": (features("test_resnet", feature_cls="fx"), 64),
    "torchvision, resnet": (extracted("resnet18", {"layer1": "low", "fc": "logits"}), 32),
    "torchvision, mobilenetv3 in the middle": (extracted("mobilenet_v3_small", ["features.3.add", "features.9"]), 32),
    "torchvision, convnext with drop path": (
        extracted("convnext_tiny", ["features.3", "classifier"], stochastic_depth_prob=0.3),
        32,
    ),
    "torchvision, densenet with dropout": (densenet, 32),
    "torch.fx, resnet": (traced, 32),
}
SLOW = ("torchvision, convnext with drop path", "torchvision, mobilenetv3 in the middle")


def build(name):
    make, size = EXTRACTORS[name]
    torch.manual_seed(0)
    return make(), torch.rand(2, 3, size, size)


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in EXTRACTORS]
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def pair(name):
    """Source and wrapped network; the copies that tests make are :func:`twin`'s, as graphs forget their mode."""
    source, x = build(name)
    return source, perturbify.wrap(source, example_input=x), x


def twin(network, training):
    return copy.deepcopy(network).train(training)


def seeded(network, x):
    torch.manual_seed(5)
    with torch.no_grad():
        return pytree.tree_leaves(network(x))


def equal(a, b):
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def silent(network, x):
    with perturbify.noise(network, enabled=False):
        return seeded(network, x)


def alive(network, x):
    with torch.no_grad():
        one, two = (pytree.tree_leaves(network(x)) for _ in range(2))
    return all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_with_noise_off_it_matches_the_source(pair, training):
    source, wrapped, x = pair
    with ConvolutionCount() as count:
        want = seeded(twin(source, training), x)
    mode = "train" if training else "eval"
    plan = wrapped.surgery.plan
    assert count.total == sum(s.calls for s in plan.sites if s.modes in (mode, "both")) > 0
    assert not plan.skipped
    ours = twin(wrapped, training)
    reached = set()
    for site, perturbation in perturbify.perturbations(ours):
        perturbation.register_forward_hook(lambda _m, i, o, site=site: reached.add(site))
    assert equal(silent(ours, x), want)
    assert reached == {s.name for s in plan.sites}
    assert alive(ours, x)
    assert equal(silent(twin(wrapped, not training).train(training), x), want)


def test_keys(pair):
    source, wrapped, _ = pair
    thetas = {f"{s.path}.theta" for s in wrapped.surgery.plan.sites}
    assert wrapped.state_dict().keys() == source.state_dict().keys() | thetas
    assert all(torch.equal(v, wrapped.state_dict()[k]) for k, v in source.state_dict().items())


def test_copies(pair):
    _, wrapped, x = pair
    for training in (False, True):
        double = twin(wrapped, training)
        assert [c.__name__ for c in type(double).__mro__] == [c.__name__ for c in type(wrapped).__mro__]
        assert equal(seeded(double, x), seeded(twin(wrapped, training), x))
        assert alive(double, x)


def test_pickle_where_the_source_pickles(pair):
    source, wrapped, x = pair
    try:
        pickle.dumps(source)
    except RecursionError:
        pytest.skip("the source does not pickle either")
    for training in (False, True):
        wrapped = twin(wrapped, training)
        double = pickle.loads(pickle.dumps(wrapped))
        assert equal(seeded(double, x), seeded(twin(wrapped, training), x))
        assert alive(double.train(training), x)


def test_unwrapping_restores_the_source(pair):
    source, wrapped, x = pair
    bare = perturbify.unwrap(wrapped)
    assert bare.state_dict().keys() == source.state_dict().keys()
    assert next(perturbify.perturbations(bare), None) is None
    # The first class is of the graph alone.
    assert [c.__name__ for c in type(bare).__mro__[1:]] == [c.__name__ for c in type(source).__mro__[1:]]
    for training in (False, True):
        assert equal(seeded(bare.train(training), x), seeded(twin(source, training), x))
    perturbify.wrap(bare, PerturbConfig(grain="layer"), example_input=x)


def test_an_extractor_in_eval_mode_stays_in_it(name):
    source, x = build(name)
    source.eval()
    wrapped = perturbify.wrap(source, PerturbConfig(grain="layer"), example_input=x)
    assert {m.training for m in wrapped.modules()} == {False}
    assert equal(silent(wrapped, x), seeded(source, x))
    assert alive(wrapped, x)


def test_two_wrapped_graphs_do_not_share_a_mode():
    """A graph's forward belongs to its class, which is why torch.fx makes a class for each."""
    source, x = build("torchvision, densenet with dropout")
    one = perturbify.wrap(source, PerturbConfig(grain="layer"), example_input=x).eval()
    two = copy.deepcopy(one).train()
    source.train()
    want = seeded(twin(source, False), x)
    assert equal(silent(one, x), want)
    assert not equal(silent(two, x), want)
    assert equal(silent(one, x), want)


@pytest.mark.parametrize("location", ["bottleneck", "expansion"])
def test_timms_hooks(location):
    x = torch.rand(2, 3, 64, 64)
    source = timm.create_model("test_efficientnet", features_only=True, feature_location=location).eval()
    wrapped = perturbify.wrap(source, PerturbConfig(grain="layer"), example_input=x)
    assert equal(silent(wrapped, x), seeded(source, x))
    assert alive(wrapped, x)


def test_an_instance_level_forward_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x)

    network, x = Net(), torch.rand(2, 3, 8, 8)
    network.forward = MethodType(lambda self, x: self.conv(x) * 2, network)
    wrapped = perturbify.wrap(network, example_input=x)  # it convolves in its child, which is followed
    assert alive(wrapped, x)
    assert equal(silent(wrapped, x), seeded(network, x))
    network.conv.forward = MethodType(type(network.conv).forward, network.conv)
    with pytest.raises(perturbify.errors.SurgeryError, match=r"forward of this Conv2d was replaced on the instance"):
        perturbify.wrap(network, example_input=x)


def test_a_network_that_was_compiled_in_place():
    x = torch.rand(2, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    network.compile(backend="eager")
    wrapped = perturbify.wrap(network, example_input=x, inplace=True)
    assert alive(wrapped, x)
