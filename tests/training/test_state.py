"""A state is taken only as it was saved, where a run can stand, and with the images that the run began with."""

import json
import zlib

import pytest
import torch
from networks.runs import Killed, assert_same_run
from safetensors import safe_open
from safetensors.torch import save_file

from perturbify.checkpoint import container
from perturbify.data.bundle import assemble
from perturbify.data.split import MemorySplit
from perturbify.errors import CheckpointError, TrainingError
from perturbify.training import history, state
from perturbify.training.folder import RunFolder
from perturbify.training.owned import STATE


@pytest.fixture
def stopped(start, tmp_path):
    """A run that was killed after eight steps: three in epoch 1, of five."""
    with pytest.raises(Killed):
        start("stopped", stop_after=8)
    return RunFolder(tmp_path / "stopped")


def resealed(path, change):
    """Writes a state again with what it says of itself changed, under a seal that holds."""
    contents = container.read(path)
    about = json.loads(contents.metadata[STATE])
    tensors = dict(contents.tensors)
    change(about, tensors)
    container.write(path, tensors, {STATE: json.dumps(about)})


def put(*keys, value):
    def change(about, _):
        for key in keys[:-1]:
            about = about[key]
        about[keys[-1]] = value

    return change


def trained(epochs, steps):
    """A header and a position that agree on another moment than the tensors'."""

    def change(about, _):
        header = json.loads(about["header"])
        header["trained"] = {"epochs": epochs, "steps_into_next": steps}
        about["header"] = json.dumps(header)
        about["position"] |= {"epoch": epochs, "step": steps}

    return change


IMPOSSIBLE = {
    "an epoch that is not": (trained(99, 0), "epoch 99"),
    "a step behind the end": (trained(3, 3), "epoch 3, step 3, in a run of 3 epochs"),
    "a step that is not": (trained(1, 4), "step 4, with batches of 5"),
    "a step below none": (trained(1, -1), "trained|a count"),
    "a step by half": (put("position", "step", value=3.0), "a count that is not one"),
    "another epoch than the network's": (put("position", "epoch", value=0), "a network trained for"),
    "sums of other steps": (put("position", "sums", "images", value=10), "10 images before step 3"),
    "more hits than images": (put("position", "sums", "clean_correct", value=16), "more hits than images"),
    "an infinite loss": (put("position", "sums", "clean_loss", value=1e999), "the number Infinity"),
    "a text for a loss": (put("position", "sums", "clean_loss", value="1"), "a sum that is not one"),
    "a loss that is none": (put("position", "sums", "clean_loss", value=None), "a sum that is not one"),
    "a sum too much": (put("position", "sums", "other", value=1), "unexpected keyword"),
    "no sums": (put("position", "sums", value=[]), "must be a mapping"),
    "no position": (put("position", value=None), "not subscriptable"),
    "other metrics": (put("metrics", value=[{"epoch": 0}]), "no metrics of an epoch"),
    "no list of metrics": (put("metrics", value={}), "no metrics of an epoch"),
    "a newer format": (put("format", value=3), "state of format 3; this perturbify reads up to 2"),
    "no format": (put("format", value="2"), "state of format '2'"),
    "metrics of an epoch to come": (
        lambda about, _: about["metrics"].append(about["metrics"][0] | {"epoch": 1}),
        "metrics of an incomplete epoch",
    ),
    "names that are none": (put("frozen", value=[1]), "a parameter without a name"),
    "a header that is none": (put("header", value="{}"), "metadata"),
    "a list": (lambda about, _: about.clear(), "is missing"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_impossible_states_are_refused(what, stopped):
    change, said = IMPOSSIBLE[what]
    resealed(stopped.state, change)
    with pytest.raises(CheckpointError, match=said):
        state.read(stopped.state)


def test_an_impossible_state_falls_back_to_the_previous(stopped, start, continue_run):
    whole = start("whole")
    resealed(stopped.state, trained(99, 0))
    with pytest.warns(UserWarning, match=r"not a valid state of a run: epoch 99.*Resuming from the previous state"):
        assert_same_run(continue_run("stopped"), whole)


@pytest.mark.parametrize("change", [trained(2, 0), put("position", "sums", "seconds", value=0.0)])
def test_a_state_changed_without_resealing_is_refused(change, stopped):
    """Also where a run could stand there."""
    with safe_open(stopped.state, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    about = json.loads(metadata[STATE])
    change(about, tensors)
    metadata[STATE] = json.dumps(about)
    save_file(tensors, stopped.state, metadata=metadata)
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        state.read(stopped.state)
    save_file(tensors, stopped.state, metadata={STATE: metadata[STATE]})
    with pytest.raises(CheckpointError, match="its seal is gone"):
        state.read(stopped.state)


def test_a_momentum_of_the_wrong_shape(stopped, continue_run):
    def change(_, tensors):
        name = next(k for k in tensors if k.endswith("/momentum_buffer"))
        tensors[name] = torch.zeros(7)

    resealed(stopped.state, change)
    with pytest.raises(CheckpointError, match=r"holds a momentum_buffer of .* of shape \(7,\), which does not fit"):
        continue_run("stopped")


def as_of_format_1(path):
    """As the first version wrote it: a CRC-32 over the tensors, no seal, no metrics, no images."""
    contents = container.read(path)
    about = json.loads(contents.metadata[STATE])
    for key in ("format", "metrics", "images"):
        del about[key]
    about["crc32"] = 0
    for name in sorted(contents.tensors):
        values = contents.tensors[name].contiguous().view(-1).view(torch.uint8)
        about["crc32"] = zlib.crc32(values.numpy().data, zlib.crc32(name.encode(), about["crc32"]))
    save_file(dict(contents.tensors), path, metadata={STATE: json.dumps(about)})


def test_an_earlier_versions_run_resumes(stopped, start, continue_run):
    whole = start("whole")
    as_of_format_1(stopped.state)
    stopped.marker.unlink()
    assert_same_run(continue_run("stopped"), whole)
    assert stopped.marker.is_file()
    assert state.read(stopped.state).images is not None


def test_an_earlier_versions_damaged_state(stopped):
    as_of_format_1(stopped.state)
    content = bytearray(stopped.state.read_bytes())
    content[-3] ^= 1
    stopped.state.write_bytes(content)
    with pytest.raises(CheckpointError, match="its tensors are not those that were saved"):
        state.read(stopped.state)


def test_a_state_keeps_only_the_newest_metrics(monkeypatch):
    epochs = [{"epoch": i, "more": "x" * 100} for i in range(50)]
    assert history.newest(epochs) == epochs
    monkeypatch.setattr(history, "MOST_IN_STATE", 1_000)
    kept = history.newest(epochs)
    assert kept == epochs[-len(kept) :] and 5 < len(kept) < 10


# The images


def other(data, *, pixels=None, count=26, side=6):
    """The data of the tests with something changed."""
    train = data.train.images[:count].clone()
    if pixels is not None:
        train[0, 0, 0, 0] ^= pixels
    splits = [MemorySplit(train, data.train.labels[:count]), MemorySplit(data.test.images, data.test.labels)]
    if side != 6:
        splits = [MemorySplit(s.images[..., :side, :side].contiguous(), s.labels) for s in splits]
    return assemble(data.name, splits, data.classes, (side, side))


def test_the_same_images_in_another_form(stopped, start, continue_run, data):
    whole = start("whole")
    assert_same_run(continue_run("stopped", data=other(data)), whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixels": 1}, "the same number and size, but different content"),
        ({"count": 25}, "training images: 26 then, 25 now"),
        ({"side": 5}, r"their size: \[3, 6, 6\] then, \[3, 5, 5\] now"),
    ],
)
def test_other_images_under_the_same_name(change, said, stopped, continue_run, data):
    before = stopped.state.read_bytes()
    with pytest.raises(TrainingError, match=rf"began with other images of tiny \({said}\)\. Resume it with the data"):
        continue_run("stopped", data=other(data, **change))
    assert stopped.state.read_bytes() == before
