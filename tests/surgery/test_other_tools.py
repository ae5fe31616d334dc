"""Tools that people point at their networks see in a wrapped one what they saw in its source, and its noise lives."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torchvision
from networks.behaviour import seeded, silent
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

import perturbify
from perturbify import PerturbConfig, normal

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    source = torchvision.models.resnet18(num_classes=3).eval()
    return source, perturbify.wrap(source, PerturbConfig(grain="channel"), example_input=X)


@pytest.fixture
def pair(built):
    return copy.deepcopy(built[0]), copy.deepcopy(built[1])


def alive(network, x=X):
    with torch.no_grad():
        return not torch.equal(network(x), network(x))


def thetas(network):
    return {id(p.theta) for _, p in perturbify.perturbations(network)}


# Counting


def test_torchinfo_counts_the_same_multiplications(pair):
    torchinfo = pytest.importorskip("torchinfo", reason="torchinfo is in the extra libraries")
    ours, theirs = (torchinfo.summary(m, input_data=X, verbose=0).total_mult_adds for m in reversed(pair))
    assert ours == theirs > 0


@pytest.mark.filterwarnings("ignore")
def test_fvcore_counts_the_same(pair):
    fvcore = pytest.importorskip("fvcore.nn", reason="fvcore is in the extra libraries")
    ours, theirs = (fvcore.FlopCountAnalysis(m, X).unsupported_ops_warnings(False).total() for m in reversed(pair))
    assert ours == theirs > 0


def test_torch_counts_the_same(pair):
    totals = []
    for network in pair:
        with FlopCounterMode(display=False) as count:
            network(X)
        totals.append(count.get_total_flops())
    assert totals[0] == totals[1] > 0


# Groups of parameters


def test_transformers_excludes_theta_from_weight_decay(pair):
    transformers = pytest.importorskip("transformers", reason="transformers comes with peft")
    source, wrapped = pair
    trainer = transformers.Trainer.get_decay_parameter_names
    assert trainer(None, wrapped) == trainer(None, source)


def test_only_layers_of_known_kinds_decay(pair):
    """A common way in torch: walk over the modules, and let the weights of convolutions and linear layers decay."""
    _, wrapped = pair
    decayed = {id(m.weight) for m in wrapped.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert not decayed & thetas(wrapped)
    assert len(decayed) == 21


# Changing weights


def test_pruning_averaging_and_parametrizations(pair):
    source, wrapped = pair
    for network in pair:
        prune.l1_unstructured(network.layer1[0].conv1, "weight", amount=0.5)
    assert torch.equal(silent(wrapped, X), seeded(source, X))
    assert alive(wrapped)
    average = AveragedModel(wrapped)
    average.update_parameters(wrapped)
    assert alive(average.eval())

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    for network in pair:
        parametrize.register_parametrization(network.conv1, "weight", Double())
    assert torch.equal(silent(wrapped, X), seeded(source, X))
    assert alive(wrapped)
    with pytest.raises(perturbify.PerturbifyError, match=r"became a ParametrizedConv2d after wrapping"):
        perturbify.unwrap(wrapped)
    parametrize.remove_parametrizations(wrapped.conv1, "weight")
    assert alive(wrapped)
    assert not alive(perturbify.unwrap(wrapped))


def test_lora_on_a_wrapped_network(pair):
    peft = pytest.importorskip("peft")
    _, wrapped = pair
    before = [n for n, _ in perturbify.perturbations(wrapped)]
    model = peft.get_peft_model(wrapped, peft.LoraConfig(target_modules=["conv1"], r=2))
    assert alive(model.eval())
    assert [n for n, _ in perturbify.perturbations(model)] == before
    assert torch.isfinite(model(X)).all()


# Explaining and training


def test_grad_cam_by_captum(pair):
    captum = pytest.importorskip("captum.attr", reason="captum is in the extra libraries")
    source, wrapped = pair
    explain = captum.LayerGradCam(wrapped, wrapped.layer4)
    assert not torch.equal(explain.attribute(X, target=0), explain.attribute(X, target=0))
    with perturbify.noise(wrapped, enabled=False):
        ours = explain.attribute(X, target=0)
    torch.testing.assert_close(ours, captum.LayerGradCam(source, source.layer4).attribute(X, target=0))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers
def test_lightning_fits_it(pair, tmp_path):
    lightning = pytest.importorskip("lightning", reason="lightning is in the extra libraries")
    _, wrapped = pair

    class Module(lightning.LightningModule):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.tensor([0, 1])), batch_size=2)
    before = [p.theta.clone() for _, p in perturbify.perturbations(wrapped)]
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Module(wrapped), data)
    assert all(not torch.equal(p.theta, b) for (_, p), b in zip(perturbify.perturbations(wrapped), before, strict=True))
    assert alive(wrapped.eval())


def test_accelerate_prepares_it(pair):
    accelerate = pytest.importorskip("accelerate", reason="accelerate comes with peft")
    _, wrapped = pair
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    network, optimizer = accelerator.prepare(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.1))
    accelerator.backward(network(X).square().sum())
    optimizer.step()
    assert alive(network.eval())
    hooked = copy.deepcopy(wrapped)
    accelerate.hooks.add_hook_to_module(hooked.conv1, accelerate.hooks.ModelHook())
    first = nn.Sequential(hooked.conv1)
    assert alive(first)
    accelerate.hooks.remove_hook_from_module(hooked.conv1)
    assert alive(first)


@pytest.mark.filterwarnings("ignore")
def test_a_step_of_transformers_trainer(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers comes with peft")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3, image_size=32
    )
    source = transformers.ResNetForImageClassification(config)
    wrapped = perturbify.wrap(source, PerturbConfig(grain="channel"), example_input={"pixel_values": X})
    assert isinstance(wrapped, transformers.PreTrainedModel)
    output = wrapped(pixel_values=X, labels=torch.tensor([0, 1]))
    assert type(output).__name__ == "ImageClassifierOutputWithNoAttention"
    assert output.loss.requires_grad
    before = [p.theta.clone() for _, p in perturbify.perturbations(wrapped)]
    trainer = transformers.Trainer(
        wrapped,
        transformers.TrainingArguments(
            tmp_path, max_steps=1, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, learning_rate=0.1
        ),
        train_dataset=[{"pixel_values": x, "labels": i} for i, x in enumerate(X)],
    )
    trainer.train()
    assert all(not torch.equal(p.theta, b) for (_, p), b in zip(perturbify.perturbations(wrapped), before, strict=True))
    wrapped.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").exists()


# Sharding


def shard(path):
    """Blocks and network by FSDP2, in one process: a step, beside the same step without it."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    normal._normal = None
    distributed.init_process_group("gloo", store=distributed.FileStore(path, 1), rank=0, world_size=1)
    torch.manual_seed(0)
    plain = perturbify.wrap(torchvision.models.resnet18(num_classes=3), PerturbConfig("channel"), example_input=X)
    sharded = copy.deepcopy(plain)
    fired = []
    for block in (sharded.layer1[0], sharded.layer1[1], sharded.layer2[0], sharded.layer3, sharded.layer4, sharded):
        fully_shard(block)
        block.register_forward_hook(lambda *_: fired.append(None))
    results = []
    for network in (plain, sharded):
        torch.manual_seed(1)
        loss = network(X).square().sum()
        loss.backward()
        results.append((loss.item(), network.layer1[0].conv1.perturb.theta.grad))
    (a, ours), (b, theirs) = results
    assert abs(a - b) < 1e-3 * abs(a), results
    torch.testing.assert_close(theirs.full_tensor(), ours, rtol=1e-3, atol=1e-4)
    assert len(fired) == 6
    torch.optim.SGD(sharded.parameters(), lr=0.1).step()
    assert not torch.equal(sharded(X), sharded(X))
    distributed.destroy_process_group()


def test_fsdp_per_block(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__, tmp_path / "store"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


if __name__ == "__main__":
    shard(sys.argv[1])
