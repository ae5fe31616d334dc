"""Networks of other libraries in the census: built small, counted, wrapped, compared."""

import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import perturbify
from perturbify.census import examine, libraries, model_names, sample, take
from perturbify.census.libraries.network import Network, images
from perturbify.census.pool import versions
from perturbify.errors import PerturbifyError, UnknownModel

QUICK = {
    "diffusers:UNet2DModel": 25,
    "monai:BasicUNet": 23,
    "pytorchcv:resnet20_cifar10": 21,
    "segmentation_models_pytorch:Unet-resnet18": 31,
    "transformers:ConvNextModel": 12,
    "ultralytics:yolo11n": 88,
}

SAMPLE = (
    "diffusers:AutoencoderKLCogVideoX",
    "diffusers:AutoencoderKLMagvit",
    "diffusers:ControlNetModel",
    "diffusers:UNet1DModel",
    "diffusers:UNet2DConditionModel",
    "diffusers:UNetMotionModel",
    "monai:AttentionUnet-3d",
    "monai:DynUNet",
    "monai:HighResNet-3d",
    "monai:SPADENet",
    "monai:VQVAE",
    "monai:VoxelMorph",
    "pytorchcv:condensenet74_c4_g4",
    "pytorchcv:fastscnn_cityscapes",
    "pytorchcv:octresnet10_ad2",
    "pytorchcv:revnet38",
    "pytorchcv:sharesnet18",
    "pytorchcv:voca8flame",
    "segmentation_models_pytorch:FPN-tu-convnext_atto",
    "segmentation_models_pytorch:MAnet-mit_b0",
    "segmentation_models_pytorch:UnetPlusPlus-mobilenet_v2",
    "transformers:BitModel",
    "transformers:DetrModel",
    "transformers:EncodecModel",
    "transformers:FastSpeech2ConformerModel",
    "transformers:LevitModel",
    "transformers:Mask2FormerModel",
    "transformers:Qwen2VLModel",
    "transformers:RTDetrModel",
    "transformers:SamModel",
    "transformers:SegformerModel",
    "transformers:VideoMAEModel",
    "transformers:VitMatteForImageMatting",
    "transformers:Wav2Vec2Model",
    "transformers:WhisperModel",
    "ultralytics:rtdetr-resnet50",
    "ultralytics:yolo12n-seg",
    "ultralytics:yolov10n",
    "ultralytics:yolov8n-pose",
    "ultralytics:yolov9t",
)


def checked(name):
    """The row of a network; the test is skipped where its library is not installed."""
    library = name.partition(":")[0]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    row = examine(name)
    assert (row.status, row.error) == ("complete", "")
    assert row.parity == dict.fromkeys(row.calls, True)
    assert max(row.calls.values()) == row.output + row.inner + row.graph + row.skipped
    return row


@pytest.mark.parametrize(("name", "calls"), QUICK.items(), ids=QUICK)
def test_a_small_network_is_complete(name, calls):
    row = checked(name)
    assert row.calls["eval"] == calls
    assert row.checked["size"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp:UserWarning")
@pytest.mark.parametrize("name", SAMPLE)
def test_forty_networks_are_complete(name):
    checked(name)


@pytest.fixture
def library(monkeypatch):
    """Puts a made-up library into the census; call it with a function from a name to its network."""

    def put(build, names=("net",)):
        room = type(sys)("room")
        room.names, room.build = lambda: list(names), build
        monkeypatch.setitem(libraries.ROOMS, "mine", ("mine", "my-package"))
        monkeypatch.setattr(libraries, "_room", lambda _: room)

    return put


class NeedsTargets(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("In training targets are needed.")
        return self.conv(x)


def test_networks_unusable_in_training_are_examined_in_eval(library):
    library(lambda _: Network(NeedsTargets(), (images(3, 8, 8),)))
    row = examine("mine:net")
    assert (row.status, row.calls, row.parity) == ("complete", {"eval": 1}, {"eval": True})
    assert row.checked["train"] == "ValueError: In training targets are needed"


def test_a_network_that_cannot_run_is_incomplete(library):
    library(lambda _: Network(nn.Conv2d(3, 4, 3), (images(5, 8, 8),)))
    row = examine("mine:net")
    assert row.status == "incomplete"
    assert row.error.startswith("The unwrapped model fails: RuntimeError")


def test_a_network_without_convolutions(library):
    library(lambda _: Network(nn.Linear(3, 4), (torch.rand(2, 3),)))
    assert examine("mine:net").status == "no convolutions"


def test_a_network_that_wrap_refuses_is_incomplete(library):
    wrapped = perturbify.wrap(nn.Conv2d(3, 4, 3), example_input=images(3, 8, 8))
    library(lambda _: Network(wrapped, (images(3, 8, 8),)))
    row = examine("mine:net")
    assert row.status == "incomplete"
    assert row.error.startswith("AlreadyWrapped: This Conv2d")


def test_names_match_globs_and_can_be_sampled(library):
    library(lambda _: None, names=("unet", "unet_3d", "resnet"))
    assert model_names("mine", "unet*") == ["mine:unet", "mine:unet_3d"]
    assert model_names("mine", "mine:r*") == ["mine:resnet"]
    assert len(sample([*model_names("mine"), "timm:test_resnet"], 3, 1)) == 3


def test_a_missing_library_names_its_package(monkeypatch):
    monkeypatch.setattr(libraries, "installed", lambda _: False)
    with pytest.raises(PerturbifyError, match="pip install segmentation-models-pytorch"):
        model_names("segmentation_models_pytorch")


def test_an_unknown_network_suggests_the_nearest(library):
    library(lambda _: None, names=("unet",))
    with pytest.raises(UnknownModel, match="Did you mean 'unet'"):
        libraries.build("mine:unett")


@pytest.mark.slow  # a process takes its time to start
@pytest.mark.skipif(find_spec("monai") is None, reason="monai is not installed")
def test_worker_processes_note_the_library_version(tmp_path):
    notes = tmp_path / "notes.jsonl"
    (row,) = take(["monai:BasicUNet"], notes=notes)
    assert row.status == "complete"
    assert "monai" in notes.read_text().splitlines()[0]
    assert "monai" not in versions(["timm:test_resnet"])


class AsLongAsItSays(nn.Module):
    """Its second feature map is as wide as the first one's values say, as where a network predicts durations."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 1)

    def forward(self, x):
        width = 2 + round(1000 * self.first(x).abs().max().item())
        return self.second(x[..., :1].expand(-1, -1, width))


def test_value_dependent_sizes_get_one_theta_per_channel(library):
    library(lambda _: Network(AsLongAsItSays(), (images(1, 8),)))
    row = examine("mine:net")
    assert (row.status, row.output, row.checked["grain"]) == ("complete", 2, "channel")
