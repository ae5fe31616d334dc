"""What a check takes, in whatever form it comes, and what it refuses, with a sentence that says why."""

from dataclasses import dataclass, replace

import pytest
import torch
from networks.greys import PLAN, Brightness, Step, brightness, named, noisy
from networks.untouched import states
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from perturbify import check
from perturbify.checks.intake import Logits, classifier, digest_of_images, digest_of_network
from perturbify.data import as_test
from perturbify.data.split import MemorySplit
from perturbify.errors import CheckError, DataError, InputSizeError
from perturbify.prediction import logits_of

CLEAN = replace(PLAN, attacks=())
X, Y = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2


# Images


class Pairs(Dataset):
    """A data set of the user's: it has a length, and no end is signalled."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], int(Y[i])


def stream():
    yield from Pairs()


FORMS = {
    "tensors": (X, Y),
    "a list of both": [X, Y],
    "arrays": (X.numpy(), Y.numpy()),
    "narrow labels": (X, Y.to(torch.uint8)),
    "a data set": TensorDataset(X, Y),
    "a data set of numbers": Pairs(),
    "pairs": list(zip(X, Y, strict=True)),
    "a loader": DataLoader(TensorDataset(X, Y), 5),
    "a generator": None,
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_any_form_are_the_same(form):
    part = as_test(FORMS[form] or stream())
    x, y = next(part.split.batches(len(part.split)))
    assert torch.equal(x, X) and torch.equal(y, Y) and y.dtype == torch.int64
    assert (part.name, part.classes) == ("own images", None)


def test_pixels_are_taken_as_they_are():
    """No rounding to grey levels on the way."""
    split = as_test((X, Y)).split
    ((x, _),) = split.interleaved().subset(torch.arange(4)).batches(4)
    assert not torch.equal((x * 255).round() / 255, x)


def test_a_dataset_gives_test_images_and_class_names():
    data = replace(named(brightness(4, 4)), train=brightness(100, 0), test=brightness(6, 2))
    part = as_test(data)
    assert (len(part.split), part.name, part.classes) == (8, "greys", ("dark", "bright"))
    assert (as_test(data.test).name, as_test(data.test).classes) == ("own images", None)
    report = check(Brightness(), data, CLEAN, name="lamp")
    assert (report.n, report.dataset, report.name) == (8, "greys", "lamp")


def test_a_name():
    part = as_test("digits")
    assert part.name == "digits" and len(part.classes) == 10 and len(part.split) > 100
    with pytest.raises(DataError):
        as_test("no such data set")


def test_no_more_images_are_read_than_needed():
    read = []

    class Endless(Dataset):
        def __getitem__(self, i):
            read.append(i)
            return X[i % 12], Y[i % 12]

    assert len(as_test(Endless(), most=7).split) == 7 and max(read) <= 7
    assert len(as_test(DataLoader(TensorDataset(X, Y), 5), most=7).split) == 7


@pytest.mark.parametrize("form", ["tensors", "a data set", "a loader"])
def test_a_check_of_each_form(form):
    report = check(Brightness(), FORMS[form], CLEAN)
    assert (report.n, report.dataset) == (12, "own images")
    assert report.clean.accuracy == check(Brightness(), FORMS["tensors"], CLEAN).clean.accuracy


WRONG = {
    "pixels above 1": ((255 * X, Y), "pixels range from .* to 2.*within \\[0, 1\\].*Normalize"),
    "normalised pixels": ((X - 0.5, Y), "pixels range from -0.*within \\[0, 1\\].*Normalize"),
    "NaN": ((X * float("nan"), Y), "pixels range from nan"),
    "a channel less": ((X[:, 0], Y), r"shape \(12, 6, 6\) .* not a batch.*\(N, C, H, W\)"),
    "a label less": ((X, Y[:-1]), "do not match"),
    "labels as floats": ((X, Y.float()), "torch.float32"),
    "labels as logits": ((X, torch.rand(12, 2)), "do not match"),
    "nothing": ([], "there are no images"),
    "a number": (3, "int is not a form of images"),
    "None": (None, "NoneType is not a form of images"),
    "pictures that are no tensors": ([("picture", 0)], "type tuple.*ToTensor"),
    "a dict without a label": (
        [{"image": X[0], "id": 0}],
        "a dict with the keys image, id, without an image and a label",
    ),
    "grey levels": (((255 * X).byte(), Y), r"pixels are uint8.*x\.float\(\) / 255"),
    "one-hot labels": ((X, torch.eye(12)), r"a label is one number.*argmax"),
    "channels last": ((X.permute(0, 2, 3, 1), Y), r"channels last.*permute"),
    "images of two sizes": ([(X[0], 0), (X[0, :, :5], 1)], "but others are.*one size"),
    "a split without images": (brightness(0, 0), "no test images"),
}


@pytest.mark.parametrize("what", WRONG)
def test_inputs_that_are_not_images(what):
    given, said = WRONG[what]
    with pytest.raises(DataError, match=said) as caught:
        as_test(given)
    assert "\n" not in caught.value.message and (caught.value.hint or what in ("nothing", "a split without images"))


@pytest.mark.parametrize("given", [(X[:0], Y[:0]), (X, Y - 1)], ids=["no images", "a label of -1"])
def test_edge_cases_are_refused_clearly(given):
    with pytest.raises(DataError):
        check(Brightness(), given, CLEAN)


def test_a_loader_leaves_the_random_state_alone():
    model, loader = Brightness(), DataLoader(TensorDataset(X, Y), 4, shuffle=True)
    before = states()
    check(model, loader, CLEAN)
    assert states() == before


# Networks


@dataclass
class Output:
    """As transformers answers."""

    logits: torch.Tensor
    loss: None = None


class Answering(Brightness):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(super().forward(x))


ANSWERS = {
    "logits": lambda z: z,
    "transformers": Output,
    "a dict": lambda z: {"loss": None, "logits": z},
    "torchvision's dict": lambda z: {"out": z},
    "a tuple": lambda z: (z, z.mean()),
    "a list": lambda z: [z],
}


@pytest.mark.parametrize("form", ANSWERS)
def test_logits_are_found_in_any_output_format(form):
    net = Answering(ANSWERS[form]).train()
    found = classifier(net, X)
    assert (found is net) == (form == "logits") and torch.equal(found(X), Brightness()(X))
    assert net.training and found.training
    report = check(net, brightness(6, 6), PLAN)
    assert report.architecture == "Answering" and net.training
    plain = check(Brightness(), brightness(6, 6), PLAN)
    assert [r.accuracy for r in report.results] == [r.accuracy for r in plain.results]
    assert [c.to_dict() for c in report.criteria] == [c.to_dict() for c in plain.criteria]


def test_a_network_from_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2, layer_type="basic"
    )
    torch.manual_seed(0)
    report = check(transformers.ResNetForImageClassification(config), (torch.rand(8, 3, 32, 32), Y[:8]), PLAN)
    assert report.architecture == "ResNetForImageClassification" and report.classes == 2
    assert {r.id for r in report.results} == {"clean", "fgsm", "pgd"}


def test_our_noise_inside_another_module_is_recognised():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = noisy()

        def forward(self, x):
            return {"logits": self.inner(x)}

    report = check(Wrapped(), brightness(6, 6), PLAN)
    assert report.noise_mode == "fresh" and report.result("twin-pgd") is not None


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, dtype=torch.bfloat16)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Grey(Half):
    def __init__(self, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)


def labelled(*labels):
    split = brightness(len(labels), 0)
    return MemorySplit(split.images, torch.tensor(labels))


REFUSED = {
    "a label that the network has no logit for": (Brightness(), labelled(0, 1, 2), "labels up to 2"),
    "more classes than the data": (
        nn.Sequential(Brightness(), nn.Linear(2, 5)),
        named(brightness(4, 4)),
        "has 5 classes, but the data have 2",
    ),
    "fewer classes than the data": (
        Brightness(),
        named(brightness(4, 4), ("dark", "bright", "blinding")),
        "has 2 classes, but the data have 3",
    ),
    "no logits in a dict": (Answering(lambda z: {"embedding": z}), None, "answers with dict, in which no logits"),
    "no logits in text": (Answering(lambda z: "a cat"), None, "answers with str, in which no logits"),
    "a map for each image": (Brightness().conv, None, "gives a map of 2×6×6 for each image, and a classifier"),
    "a map in a dict": (
        Answering(lambda z: {"out": z[..., None, None].expand(-1, -1, 4, 4)}),
        None,
        "Answering gives a map of 2×4×4 for each image, and a classifier of whole images gives one row of logits",
    ),
    "a single logit": (Answering(lambda z: z[:, :1]), None, r"a single number for each image.*cat\(\[-z, z\]"),
    "a class each": (Answering(lambda z: z.argmax(1)), None, "not a classifier"),
    "one row for all": (Answering(lambda z: z.mean(0, keepdim=True)), None, "not a classifier"),
    "whole numbers": (Answering(lambda z: z.long()), None, "not a classifier"),
    "another precision": (Half(), None, "does not take 3×6×6 images in float32.*float"),
    "another number of channels": (Grey(4), None, "does not take 3×6×6 images.*It needs images of 4 channels, not 3"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_invalid_inputs_are_refused_in_one_sentence(why):
    net, data, said = REFUSED[why]
    with pytest.raises(CheckError, match=said) as caught:
        check(net, data or brightness(4, 4), PLAN)
    assert "\n" not in caught.value.message


def test_a_missing_gradient_is_not_refused():
    assert check(nn.Sequential(Brightness(), Step()), brightness(4, 4), PLAN).verdict == "failed"


@pytest.mark.parametrize("given", [{"sources": {"itself": Brightness()}}, {"against": ("itself", Brightness())}])
def test_a_name_reserved_by_the_report_is_refused(given):
    with pytest.raises(CheckError, match="may be called 'itself'"):
        check(Brightness(), brightness(4, 4), PLAN, **given)


def test_other_networks_are_validated_before_any_work():
    for given in ({"sources": {"x": Grey()}}, {"against": ("x", Grey())}):
        with pytest.raises(CheckError, match="Grey does not take"):
            check(Brightness(), brightness(4, 4), PLAN, on_start=pytest.fail, **given)
    with pytest.raises(CheckError, match="has 5 classes"):
        check(Brightness(), named(brightness(4, 4)), PLAN, against=("x", nn.Sequential(Brightness(), nn.Linear(2, 5))))


def test_images_of_another_size_are_named():
    small = MemorySplit(torch.zeros(4, 3, 5, 5, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputSizeError, match=r"3×6×6.*this one is 2×5×5.*grain=\"channel\""):
        check(noisy(), small, PLAN)


def test_logits_are_a_tensor_or_nothing():
    z = torch.rand(2, 3)
    assert logits_of(z) is z and logits_of(Output(z)) is z and logits_of(()) is None and logits_of({}) is None
    assert logits_of(Output(None)) is None


# What tells two checks apart


def test_digests():
    net, split = Brightness(), brightness(4, 4)
    assert digest_of_network(net) == digest_of_network(Brightness())
    assert digest_of_images(split) == digest_of_images(brightness(4, 4))
    net.conv.bias.data[0] += 1e-6 * 30
    assert digest_of_network(net) != digest_of_network(Brightness())
    assert digest_of_network(Logits(Brightness())) != digest_of_network(Brightness())
    other = split.images.clone()
    other[0, 0, 0, 0] += 1
    assert digest_of_images(MemorySplit(other, split.labels)) != digest_of_images(split)
    assert digest_of_images(MemorySplit(split.images, 1 - split.labels)) != digest_of_images(split)
