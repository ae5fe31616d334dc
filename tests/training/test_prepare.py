"""From a network and a dataset to one that fits: what is refused, and which normalisation a network gets."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import perturbify
from perturbify import methods, zoo
from perturbify.errors import MethodError, ModelError, NoConvolutions, SurgeryError, TrainingError
from perturbify.training.prepare import prepare


@pytest.fixture
def ready(data, make_recipe):
    def ready(model, **changes):
        settings = make_recipe(**changes)
        return prepare(model, settings, data, methods.get(settings.method))

    return ready


def test_a_plain_network_is_wrapped_on_a_copy(ready, build):
    network = build()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wrapped = ready(network, perturb__grain="channel", perturb__theta_init=0.3)
    assert [tuple(p.theta.shape) for _, p in perturbify.perturbations(wrapped)] == [(4, 1, 1)] * 2
    assert not list(perturbify.perturbations(network))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_wrapped_network_is_used_as_it_is(ready, build, data):
    wrapped = perturbify.wrap(build(), example_input=torch.rand(2, *data.input_size)).eval()
    assert ready(wrapped) is wrapped
    assert not wrapped.training


def test_it_leaves_the_random_numbers_alone(ready, build):
    before = torch.get_rng_state()
    ready(build())
    assert torch.equal(torch.get_rng_state(), before)


def test_another_class_count(ready, build):
    with pytest.raises(TrainingError, match=r"head has 5 classes, tiny has 3\. Build it with num_classes=3"):
        ready(build(5))


def test_no_classifier(ready):
    with pytest.raises(TrainingError, match="Conv2d is not a classifier"):
        ready(nn.Conv2d(3, 4, 3))


def test_no_convolutions(ready):
    with pytest.raises(NoConvolutions):
        ready(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)))


def test_a_network_for_other_images(ready, build):
    with pytest.raises(ModelError, match=r"images of tiny are 3×6×6; its own have 1 in place of 3 channels"):
        ready(nn.Sequential(nn.Conv2d(1, 3, 3), *list(build())[1:]))


def test_an_element_grained_network_of_another_size(ready, build):
    wrapped = perturbify.wrap(build(), example_input=torch.rand(2, 3, 8, 8))
    with pytest.raises(TrainingError, match=r'inputs of 3×8×8; tiny has images of 3×6×6\..*grain="channel"'):
        ready(wrapped)


def test_a_channel_grained_network_takes_any_size(ready, build):
    config = perturbify.PerturbConfig(grain="channel")
    wrapped = perturbify.wrap(build(), config, example_input=torch.rand(2, 3, 8, 8))
    assert ready(wrapped) is wrapped


def test_method_and_network_must_agree(ready, build, data):
    noisy = perturbify.wrap(build(), example_input=torch.rand(2, *data.input_size))
    still = perturbify.wrap(build(), None, example_input=torch.rand(2, *data.input_size))
    with pytest.raises(MethodError, match="vanilla has no noise, but this network has some"):
        ready(noisy, method="vanilla")
    with pytest.raises(MethodError, match="learn2perturb needs noise, but this network has none"):
        ready(still)
    assert ready(still, method="none") is still


def test_a_network_containing_a_wrapped_part(ready, build, data):
    inner = perturbify.wrap(build(), example_input=torch.rand(2, *data.input_size))
    with pytest.raises(SurgeryError, match="already wrapped"):
        ready(nn.Sequential(inner))


def normalization(network):
    return network.normalize.mean.flatten().tolist(), network.normalize.std.flatten().tolist()


def test_normalization_comes_from_data_weights_or_recipe(ready, build, data, tmp_path):
    of_data = tuple(pytest.approx(list(values)) for values in (data.mean, data.std))
    assert normalization(ready(build())) == of_data
    fresh = zoo.create("cifar_resnet20", num_classes=3)
    assert normalization(ready(fresh)) == of_data
    weights, stated = tmp_path / "w.safetensors", ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    metadata = dict(zip(("mean", "std"), map(json.dumps, stated), strict=True))
    save_file(fresh.state_dict(), weights, metadata=metadata)
    loaded = zoo.create("cifar_resnet20", num_classes=3, weights=weights)
    assert normalization(ready(loaded)) == tuple(map(pytest.approx, stated))
    chosen = {"data__mean": [0.5, 0.5, 0.5], "data__std": [0.2, 0.2, 0.2]}
    assert normalization(ready(loaded, **chosen)) == (pytest.approx([0.5] * 3), pytest.approx([0.2] * 3))
