"""What users do to a network later, done to wrapped networks of many families.

Compiled, exported, averaged, pickled, trained in several processes, in bfloat16, in channels_last, called with other
weights: the noise stays alive, and with the noise off each is still what its source is in that form.
"""

import copy
import inspect
import io
import os
import pickle
import subprocess
import sys
from collections import Counter

import pytest
import torch
from networks.behaviour import alive, equal, gradients, loss_of, scale, seeded, silent, thetas
from networks.families import FAMILIES, families, tm
from torch import distributed
from torch.func import functional_call, grad
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import perturbify
from perturbify import normal

MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@pytest.fixture(scope="module")
def family(request):
    """Source and wrapped network of a family, which no test changes, and a batch."""
    make, shape = FAMILIES[request.param]
    torch.manual_seed(0)
    source = make()
    x = torch.rand(2, *shape)
    return source, perturbify.wrap(source, example_input=x), x


@pytest.fixture
def fresh(family):
    """Copies, for a test to change."""
    source, wrapped, x = family
    return copy.deepcopy(source), copy.deepcopy(wrapped), x


@pytest.fixture(autouse=True)
def draws(monkeypatch):
    """Torch's, as in networks that are compiled, exported or transformed: seeds can be compared."""
    monkeypatch.setattr(normal, "_normal", None)


# 1. torch.compile


@pytest.fixture
def compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@families(quick=("vit", "resnet"))
def test_compiles_without_graph_breaks(fresh, compiler):
    source, wrapped, x = fresh
    source.eval(), wrapped.eval()
    compiled = torch.compile(wrapped, fullgraph=True, backend="eager")
    assert alive(compiled, x)
    assert equal(seeded(compiled, x), seeded(wrapped, x))  # this backend draws as eager torch does
    assert equal(silent(compiled, x), seeded(source, x))
    assert alive(compiled, x)
    source.train(), compiled.train()
    assert wrapped.training
    assert equal(silent(compiled, x), seeded(source, x))
    assert alive(compiled, x)
    source.load_state_dict({k: v for k, v in wrapped.state_dict().items() if k in source.state_dict()})
    source.eval(), compiled.eval()
    assert equal(silent(compiled, x), seeded(source, x))


@families(quick=("resnet",))
def test_compiled_gradients(fresh, compiler):
    source, wrapped, x = fresh
    source.eval(), wrapped.eval()
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    loud, want = gradients(compiled, x), gradients(wrapped, x)  # this backend draws as eager torch does
    assert want.keys() >= thetas(wrapped).keys()
    for name, value in want.items():
        torch.testing.assert_close(loud.pop(f"_orig_mod.{name}"), value)
    assert not loud
    with perturbify.noise(wrapped, enabled=False):
        ours, theirs = gradients(compiled, x), gradients(source, x)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[f"_orig_mod.{name}"], value)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet"], indirect=True)
def test_inductor(fresh, compiler):
    source, wrapped, x = fresh
    source.eval(), wrapped.eval()
    compiled = torch.compile(wrapped, fullgraph=True, backend="inductor")
    assert alive(compiled, x)
    torch.testing.assert_close(silent(compiled, x), seeded(source, x))
    compiled.train()
    assert alive(compiled, x)
    assert thetas(compiled).keys() <= gradients(compiled, x).keys()


# 2. torch.export


def drawn_in(program):
    return sum(n.target is torch.ops.aten.randn_like.default for n in program.graph.nodes)


@families(quick=("resnet", "vit", "video, Conv3d"))
def test_exported_programs_keep_the_noise(fresh):
    source, wrapped, x = fresh
    source.eval(), wrapped.eval()
    program = torch.export.export(wrapped, (x,))
    sites = wrapped.surgery.plan.sites
    assert drawn_in(program) == len(sites)
    assert {f"{s.path}.theta" for s in sites} <= program.state_dict.keys()
    assert alive(program.module(), x)
    assert equal(seeded(program.module(), x), seeded(wrapped, x))
    with perturbify.noise(wrapped, enabled=False):
        bare = torch.export.export(wrapped, (x,))
    assert drawn_in(bare) == 0
    assert equal(seeded(bare.module(), x), seeded(source, x))


@families(quick=("resnet", "vit", "efficientvit"))
def test_a_dynamic_batch_exports_by_input_name(fresh):
    source, wrapped, x = fresh
    name = next(iter(inspect.signature(source.forward).parameters))
    batch = {name: {0: torch.export.Dim("batch", min=2, max=64)}}
    for network in (source, wrapped):
        try:
            program = torch.export.export(network.eval(), (x,), dynamic_shapes=batch)
        except Exception as error:  # a source that does not export so is none that the wrapped one could follow
            if network is wrapped:
                raise
            pytest.skip(f"the source does not export with a dynamic batch: {error!s:.80}")
    more = torch.cat([x, x, x])
    assert alive(program.module(), more)


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # calls of a module are counted
@families(quick=("resnet", "vit", "efficientvit"))
def test_strictly_exported(fresh):
    source, wrapped, x = fresh
    try:
        torch.export.export(source.eval(), (x,), strict=True)
    except Exception as error:
        pytest.skip(f"the source does not export strictly: {error!s:.80}")
    program = torch.export.export(wrapped.eval(), (x,), strict=True)
    assert drawn_in(program) == len(wrapped.surgery.plan.sites)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace")
@families()
def test_jit_trace_keeps_the_noise(fresh):
    source, wrapped, x = fresh
    wrapped.eval()
    try:
        torch.jit.trace(source.eval(), x, check_trace=False)
    except Exception as error:
        pytest.skip(f"the source cannot be traced: {error!s:.80}")
    assert alive(torch.jit.trace(wrapped, x, check_trace=False), x)


@families(quick=("resnet", "vit", "convnext", "efficientvit"))
def test_vmap(fresh):
    source, wrapped, x = fresh
    wrapped.eval()

    def one(network):
        return lambda image: network(image[None])

    try:
        want = torch.func.vmap(one(source.eval()))(x)
    except Exception as error:
        pytest.skip(f"the source cannot be vectorized: {error!s:.80}")
    with perturbify.noise(wrapped, enabled=False):
        assert equal(torch.func.vmap(one(wrapped))(x), want)
    noisy = torch.func.vmap(one(wrapped), randomness="different")
    assert alive(noisy, torch.stack([x[0], x[0]]))


@pytest.mark.filterwarnings(
    "ignore:The given buffer is not writable", "ignore:.isinstance.treespec"
)  # torch 2.11's own
@pytest.mark.parametrize("family", ["vit"], indirect=True)
def test_exported_programs_travel_through_a_file(fresh):
    _, wrapped, x = fresh
    file = io.BytesIO()
    torch.export.save(torch.export.export(wrapped.eval(), (x,)), file)
    file.seek(0)
    program = torch.export.load(file)
    assert equal(seeded(program.module(), x), seeded(wrapped, x))
    assert alive(program.run_decompositions().module(), x)


# 3. copy.deepcopy


@families()
def test_moving_averages(fresh):
    source, wrapped, x = fresh
    average = AveragedModel(wrapped, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(wrapped)
    first = {name: p.clone() for name, p in wrapped.named_parameters()}
    scale(wrapped, 3.0)
    average.update_parameters(wrapped)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, first[name] * 2)
    source.eval(), average.eval()
    assert alive(average, x)
    scale(average, 0.5)
    torch.testing.assert_close(silent(average, x), seeded(source, x))
    with perturbify.noise(wrapped, enabled=False):
        assert all(p.enabled for _, p in perturbify.perturbations(average))


@pytest.mark.parametrize("family", ["resnet"], indirect=True)
def test_statistics_of_a_moving_average(fresh):
    _, wrapped, x = fresh
    average = AveragedModel(wrapped)
    before = dict(average.module.named_buffers())["bn1.running_mean"].clone()
    update_bn([x, x], average)
    assert not torch.equal(dict(average.module.named_buffers())["bn1.running_mean"], before)
    assert alive(average.eval(), x)


@families()
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies(fresh, twin):
    source, wrapped, x = fresh
    double = twin(wrapped)
    assert double.surgery.plan == wrapped.surgery.plan
    for training in (False, True):
        for network in (source, wrapped, double):
            network.train(training)
        assert equal(seeded(double, x), seeded(wrapped, x))
        assert equal(silent(double, x), silent(wrapped, x))
    assert alive(double, x)
    with perturbify.noise(wrapped, enabled=False):
        assert alive(double, x)
    before = copy.deepcopy(wrapped.state_dict())
    scale(double, 2.0)
    assert all(torch.equal(v, before[k]) for k, v in wrapped.state_dict().items())


# 5. DistributedDataParallel


@pytest.fixture(scope="module")
def one_process():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view:UserWarning")  # a hint for speed
@families()
def test_distributed_gradients(fresh, one_process):
    _, wrapped, x = fresh
    parallel = DistributedDataParallel(copy.deepcopy(wrapped).train())
    ours, alone = gradients(parallel, x), gradients(wrapped.train(), x)
    assert ours.keys() == {f"module.{name}" for name in alone}
    assert ours.keys() >= {f"module.{name}" for name in thetas(wrapped)}
    for name, value in alone.items():
        assert torch.equal(ours[f"module.{name}"], value), name
    gradients(parallel, x, seed=6)  # a second step: the first left nothing pending
    assert alive(parallel.eval(), x)
    with perturbify.noise(parallel, enabled=False):
        assert not alive(parallel, x)


def step_of_rank(rank, folder):
    """What each of two processes does; both have the same weights and the same batch."""
    torch.manual_seed(0)
    wrapped = perturbify.wrap(tm("resnet10t"), example_input=torch.rand(2, 3, 32, 32)).train()
    x = torch.rand(2, 3, 32, 32)
    alone = gradients(copy.deepcopy(wrapped), x, seed=1 + rank)
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    parallel = DistributedDataParallel(wrapped)
    together = {n.removeprefix("module."): g for n, g in gradients(parallel, x, seed=1 + rank).items()}
    output = seeded(parallel.eval(), x, seed=1 + rank)
    torch.save({"alone": alone, "together": together, "output": output}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_agree_on_gradients_and_draw_apart(tmp_path):
    command = [sys.executable, "-W", "error::RuntimeWarning", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [subprocess.Popen([*command, str(rank), tmp_path], env=environment, stderr=-1) for rank in range(2)]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors.decode()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert any(name.endswith("theta") for name in first["together"])
    for name, value in first["together"].items():
        assert torch.equal(value, second["together"][name]), name
        mean = (first["alone"][name] + second["alone"][name]) / 2
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)
    assert not torch.equal(first["alone"]["conv1.0.perturb.theta"], second["alone"]["conv1.0.perturb.theta"])
    assert not torch.equal(first["output"], second["output"])


# 6. bfloat16


def half(value):
    return value.to(torch.bfloat16)


@families(quick=("resnet", "convnext", "vit", "nfnet, ScaledStdConv"))
def test_bfloat16_from_the_start(fresh):
    source, wrapped, x = fresh
    config, source, x = wrapped.surgery.plan.config, half(source), half(x)
    wrapped = perturbify.wrap(source, config, example_input=x)
    assert {p.theta.dtype for _, p in perturbify.perturbations(wrapped)} == {torch.bfloat16}
    for training in (False, True):
        source.train(training), wrapped.train(training)
        assert equal(silent(wrapped, x), seeded(source, x))
    assert alive(wrapped, x)
    assert thetas(wrapped).keys() <= gradients(wrapped, x).keys()


@families()
def test_bfloat16_after_wrapping_and_back(fresh):
    source, wrapped, x = fresh
    source.eval(), wrapped.eval()
    assert equal(silent(half(copy.deepcopy(wrapped)), half(x)), seeded(half(copy.deepcopy(source)), half(x)))
    assert alive(half(wrapped), half(x))
    assert {v.dtype for v in wrapped.float().parameters()} == {torch.float32}


@families()
@MODES
def test_autocast(fresh, training):
    source, wrapped, x = fresh
    source.train(training), wrapped.train(training)
    seen = Counter()
    for _, perturbation in perturbify.perturbations(wrapped):
        perturbation.register_forward_hook(lambda _m, i, o: seen.update([(i[0].dtype, o.dtype)]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(silent(wrapped, x), seeded(source, x))
        assert alive(wrapped, x)
        reached = gradients(wrapped, x)
    assert seen.keys() == {(torch.bfloat16, torch.bfloat16)}
    for name, theta in thetas(wrapped).items():
        assert reached[name].dtype == theta.dtype == torch.float32
        assert reached[name].isfinite().all()


# 7. channels_last


@families()
@MODES
def test_channels_last(fresh, training):
    source, wrapped, x = fresh
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    x = x.to(memory_format=layout)
    source.train(training).to(memory_format=layout), wrapped.train(training).to(memory_format=layout)
    strides = []
    for _, perturbation in perturbify.perturbations(wrapped):
        perturbation.register_forward_hook(lambda _m, i, o: strides.append((i[0].stride(), o.stride())))
    assert equal(silent(wrapped, x), seeded(source, x))
    assert alive(wrapped, x)
    assert all(before == after for before, after in strides)
    assert thetas(wrapped).keys() <= gradients(wrapped, x).keys()


# 8. torch.func
#
# With tie_weights=True, its default, functional_call leaves its weights in a module that is registered under two names,
# as some of coat's are (torch 2.15: nn.Sequential(l, l) shows it); the wrapped and the source network alike.


@families()
def test_functional_call(fresh):
    source, wrapped, x = fresh
    source.eval(), wrapped.eval()
    other = copy.deepcopy(wrapped)
    scale(other, 1.1)
    state = dict(other.named_parameters())
    assert equal(seeded(lambda x: functional_call(wrapped, state, (x,), tie_weights=False), x), seeded(other, x))
    zeros = {name: torch.zeros_like(theta) for name, theta in thetas(wrapped).items()}
    assert equal(seeded(lambda x: functional_call(wrapped, zeros, (x,), tie_weights=False), x), seeded(source, x))
    assert alive(lambda x: functional_call(wrapped, state, (x,), tie_weights=False), x)
    assert alive(wrapped, x)  # its own are in place again


@families()
def test_functional_gradients(fresh):
    _, wrapped, x = fresh
    wrapped.eval()
    state = dict(wrapped.named_parameters())
    torch.manual_seed(5)
    ours = grad(lambda state: loss_of(functional_call(wrapped, state, (x,), tie_weights=False)))(state)
    for name, value in gradients(wrapped, x).items():
        torch.testing.assert_close(ours[name], value, msg=name)


if __name__ == "__main__":
    from pathlib import Path

    step_of_rank(int(sys.argv[1]), Path(sys.argv[2]))
