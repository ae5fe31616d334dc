"""The fused kernel: what it computes (interpreted, without a GPU), that it compiles for GPUs, and who may use it."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from perturbify import perturbation
from perturbify.perturbation import Perturbation

pytest.importorskip("triton")

ROOT = Path(__file__).parents[1]
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIZES = ("images", "elements", "channels", "channel_size", "fours_each")


@pytest.mark.parametrize("interpret", ["1", pytest.param("0", marks=needs_a_gpu)])
def test_the_kernels(interpret):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "tests/fused_kernels.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": interpret},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def compiled(kernel, capability, dtype, constants):
    """The kernel as machine code, the way Triton's launcher would have it made; a size in ``constants`` is 1 there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {"seed_ptr": "*i64", "theta_ptr": "*fp32", "sums_ptr": "*fp32"}
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        is_pointer = name.endswith("_ptr")
        signature[name] = "constexpr" if name in constants else types.get(name, f"*{dtype}" if is_pointer else "i32")
        if is_pointer or (name not in constants and name in ("elements", "channel_size")):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm


def variants():
    from perturbify import fused

    flags = (False, True)
    for shares, last in itertools.product(flags, flags):
        constants = {"batch_shares": shares, "channels_last": last, "block_size": fused._BLOCK}
        yield fused._sum_over_images, constants
        for element, channel in ((True, True), (False, True), (False, False)):
            yield fused._add_noise, {**constants, "per_element": element, "per_channel": channel}


def assert_compiles(kernel, capability, dtype, constants):
    asm = compiled(kernel, capability, dtype, constants)
    assert f".target sm_{capability}" in asm["ptx"]
    assert len(asm["cubin"]) > 1000
    assert ".local" not in asm["ptx"]  # arguments of a slow path of sine, or registers that ran out
    return asm


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where nobody says


def test_a_sample_of_variants_compiles_for_gpus(fresh_cache):
    dtypes = itertools.cycle(("fp32", "bf16", "fp16"))
    for (kernel, constants), capability in zip(variants(), itertools.cycle((80, 90, 90))):
        assert_compiles(kernel, capability, next(dtypes), constants)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 80, 90, 100])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_every_variant_compiles_for_gpus(capability, dtype, fresh_cache):
    for kernel, constants in variants():
        assert_compiles(kernel, capability, dtype, constants)


@pytest.mark.parametrize("ones", [("images",), ("channels",), ("channel_size", "fours_each"), SIZES])
def test_kernels_compile_for_dimensions_of_size_one(ones, fresh_cache):
    """Triton makes a constant of every argument that is 1."""
    kernels = {kernel.__name__: (kernel, constants) for kernel, constants in variants()}
    for kernel, constants in kernels.values():
        sizes = {name: 1 for name in ones if name in kernel.arg_names}
        assert_compiles(kernel, 90, "bf16", constants | sizes)


def test_kernels_access_sixteen_bytes_at_a_time(fresh_cache):
    for kernel, constants in variants():
        if not constants["channels_last"]:
            assert "ld.global.v4.b32" in assert_compiles(kernel, 90, "fp32", constants)["ptx"]
            break


@pytest.fixture
def fused_calls(monkeypatch):
    """Lets a tensor on the CPU pass for one on a GPU, and counts who asks for the kernel."""
    calls = []
    monkeypatch.setattr(perturbation, "_suits_the_kernel", lambda x, theta: True)
    monkeypatch.setattr(perturbation, "_launches", lambda device, dtype: True)
    monkeypatch.setattr(perturbation, "_WORTH_A_LAUNCH", 1)
    monkeypatch.setattr("perturbify.fused.fused_noise", lambda x, theta, draw_per: calls.append(draw_per) or x + theta)
    return calls


X = torch.zeros(2, 3, 4, 5)


def test_a_plain_call_is_fused(fused_calls, monkeypatch):
    module = Perturbation((3, 4, 5), draw_per="batch")
    assert (module(X) == 0.25).all()
    assert fused_calls == ["batch"]
    monkeypatch.setattr(perturbation, "_WORTH_A_LAUNCH", X.numel() + 1)
    module(X)
    assert fused_calls == ["batch"]


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_network_needs_no_kernel(fused_calls, strict):
    program = torch.export.export(Perturbation((3, 4, 5)), (X,), strict=strict)
    assert not fused_calls
    assert not any("perturbify" in str(node.target) for node in program.graph.nodes)


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_tracing_vmap_and_fake_tensors_are_not_fused(fused_calls):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    module = Perturbation((3, 4, 5))
    make_fx(module)(X)
    torch.jit.trace(module, X, check_trace=False)
    torch.func.vmap(module, randomness="different")(X)
    torch.func.grad(lambda x: module(x).sum())(X)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        module(fake.from_tensor(X))
    assert not fused_calls


def dynamo_graphs(network, x):
    """What dynamo makes of a network, without running it."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return lambda *args: (torch.zeros_like(x),)

    torch._dynamo.reset()
    torch.compile(network, backend=backend, fullgraph=True)(x)
    return graphs


def test_a_compiler_sees_the_operator(monkeypatch):
    monkeypatch.setattr(perturbation, "_suits_the_kernel", lambda x, theta: True)
    with torch.no_grad():
        (graph,) = dynamo_graphs(Perturbation((3, 4, 5)), X)
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert any("perturbify" in name and "add_noise" in name for name in called), called
    assert any("randint" in name for name in called)


@pytest.fixture
def some_driver(monkeypatch):
    """Torch asks Triton for which GPU it shall compile, to see which tensors a kernel writes."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    if not torch.cuda.is_available():
        stub = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0)
        monkeypatch.setattr(driver, "_active", stub)


@pytest.mark.parametrize("grain", [(3, 4, 5), (3, 1, 1), (1, 1, 1)])
def test_an_aot_backend_sees_both_kernels(grain, some_driver, monkeypatch):
    """Below autograd there is the seed, a kernel each way, and no ε."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    monkeypatch.setattr(perturbation, "_suits_the_kernel", lambda x, theta: True)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        (output,) = graph.graph.find_nodes(op="output")
        shapes = [node and tuple(node.meta["val"].shape) for node in output.args[0]]
        return make_boxed_func(lambda *args: [shape and torch.zeros(shape) for shape in shapes])

    torch._dynamo.reset()
    x = X.clone().requires_grad_()
    module = Perturbation(grain)
    network = torch.compile(module, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    network(x).sum().backward()
    kernels = [[n for n in g.graph.nodes if "triton_kernel" in str(n.target)] for g in graphs]
    assert [len(k) for k in kernels] == [1, 1]
    saved = [node for node in graphs[1].graph.nodes if node.op == "placeholder"]
    assert sorted(node.meta["val"].numel() for node in saved) == [1, X.numel()]  # the seed, and the gradient

    graphs.clear()
    module.requires_grad_(False)
    network(x).sum().backward()
    assert not any("triton_kernel" in str(n.target) for g in graphs[1:] for n in g.graph.nodes)


@pytest.mark.parametrize(
    ("x", "theta", "suits"),
    [
        ((2, 3, 4, 5), (3, 4, 5), True),
        ((3, 4, 5), (3, 4, 5), True),
        ((2, 3, 4, 5), (3, 1, 1), True),
        ((2, 3, 4, 5), (1, 1, 1), True),
        ((2, 3, 9), (3, 9), True),
        ((2, 3, 2, 4, 5), (3, 1, 1, 1), True),
        ((2, 3, 4, 5), (1, 4, 5), False),
        ((2, 3, 4, 5), (3, 4, 1), False),
        ((2, 2, 3, 4, 5), (3, 4, 5), False),
        ((0, 3, 4, 5), (3, 4, 5), False),
        ((1, 2**10, 2**10, 2**10), (2**10, 1, 1), False),
    ],
)
def test_only_some_shapes_are_fused(x, theta, suits):
    class OnAGpu:
        """A tensor's description, for a machine without a GPU."""

        def __init__(self, shape):
            self.shape, self.device, self.dtype = torch.Size(shape), torch.device("cuda", 0), torch.bfloat16

        def dim(self):
            return len(self.shape)

        def numel(self):
            return self.shape.numel()

    assert perturbation._suits_the_kernel(OnAGpu(x), OnAGpu(theta)) == suits
    assert not perturbation._suits_the_kernel(torch.empty(2, 3), torch.empty(3))


def test_a_triton_failure_warns_and_falls_back():
    with pytest.warns(UserWarning, match="Triton failed"):
        assert not perturbation._launches.__wrapped__(torch.device("cpu"), torch.float32)


def test_triton_is_loaded_only_when_needed():
    script = "import sys, perturbify.perturbation; print('perturbify.fused' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_a_gpu_the_fused_path_is_unused(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "perturbify.fused", raising=False)
    network = nn.Sequential(nn.Conv2d(3, 3, 1), Perturbation((3, 4, 5)))
    network(X).sum().backward()
    assert "perturbify.fused" not in sys.modules
