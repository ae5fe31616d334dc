"""The kernels at work. ``test_fused.py`` runs these in a process of its own: interpreted, and on a GPU.

Triton reads at its import whether it shall interpret, so no test beside it can choose.
"""

import itertools
import math
import os

import numpy as np
import pytest
import torch
from scipy import stats

from perturbify import fused
from perturbify.fused import add_noise, fused_noise, theta_gradient

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
THETAS = {"element": (3, 5, 7), "channel": (3, 1, 1), "layer": (1, 1, 1)}
FORMATS = [torch.contiguous_format, torch.channels_last]

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset")  # Triton 3.9, at its first kernel

grains = pytest.mark.parametrize("grain", THETAS)
shares = pytest.mark.parametrize("draw_per", ["sample", "batch"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)
formats = pytest.mark.parametrize("memory_format", FORMATS)


@pytest.fixture(autouse=True)
def traceable(monkeypatch):
    if INTERPRETED:  # before torch 2.15 or so, wrap_triton knows no interpreted kernel
        monkeypatch.setattr(fused, "wrap_triton", lambda kernel: kernel)


def zeros(*shape, dtype=torch.float32, memory_format=torch.contiguous_format):
    return torch.zeros(shape, dtype=dtype, device=DEVICE).contiguous(memory_format=memory_format)


def seed(number=5):
    return torch.tensor([number], device=DEVICE)


def some_theta(grain):
    return torch.arange(1, 1 + math.prod(THETAS[grain]), dtype=torch.float32, device=DEVICE).view(THETAS[grain])


def draws(*shape, draw_per="sample", **kwargs):
    return fused_noise(zeros(*shape, **kwargs), torch.ones((1,) * (len(shape) - 1), device=DEVICE), draw_per)


def philox(key, counter):
    """Philox4x32-10 as in Salmon et al., section 3.3; rows of four counters."""
    c = [column.astype(np.uint64) for column in counter.T]
    k, low = [key & 0xFFFFFFFF, key >> 32], np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        c = [
            (second >> shift) ^ c[1] ^ np.uint64(k[0]),
            second & low,
            (first >> shift) ^ c[3] ^ np.uint64(k[1]),
            first & low,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, 1)


def test_the_reference_matches_published_values():
    """kat_vectors of Random123."""
    assert [hex(v) for v in philox(0, np.zeros((1, 4), np.uint64))[0]] == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]


def box_muller(a, b):
    radius = np.sqrt(-2 * np.log((a + 0.5) * 2.0**-32))
    quarter, within = (b >> np.uint64(30)), (b << np.uint64(2)).astype(np.uint32).astype(np.int32) / 2.0**31
    angle = within * np.pi / 4
    cosine, sine = np.where(quarter & np.uint64(2), -1, 1) * np.cos(angle), np.sin(angle)
    swap = quarter & np.uint64(1) > 0
    return radius * np.where(swap, sine, cosine), radius * np.where(swap, cosine, sine)


@pytest.mark.parametrize("key", [0, 5, 2**62 - 1, 0x0123456789ABCDEF])
def test_the_kernel_matches_philox(key):
    n, elements = 6, 105
    found = add_noise(zeros(n, 3, 5, 7), torch.ones(1, 1, 1, device=DEVICE), seed(key), False).view(n, elements)
    for four in range(2):
        index = np.arange(elements)
        counter = np.stack([index, np.full_like(index, four), index * 0, index * 0], 1)
        a, b, c, d = philox(key, counter).T
        expected = np.stack([*box_muller(a, b), *box_muller(c, d)])[: n - 4 * four]
        np.testing.assert_allclose(found[4 * four : 4 * four + 4].cpu().numpy(), expected, atol=2e-5)


def test_distribution(monkeypatch):
    monkeypatch.setattr(fused, "_BLOCK", 4096)  # fewer programs to interpret
    torch.manual_seed(3)
    many = draws(64, 16, 16, 16).double().cpu().numpy().ravel()
    n = many.size
    assert stats.kstest(many, "norm").pvalue > 1e-3
    assert abs(many.mean()) < 4 / n**0.5
    assert abs(many.var() - 1) < 4 * (2 / n) ** 0.5
    for bound in (1, 2, 3, 4):
        outside = int((np.abs(many) > bound).sum())
        assert stats.binomtest(outside, n, 2 * stats.norm.sf(bound)).pvalue > 1e-4


@grains
@shares
@dtypes
@formats
@pytest.mark.parametrize("batch", [(), (5,)])
def test_noise_has_the_scale_of_theta_everywhere(grain, draw_per, dtype, memory_format, batch):
    """Against the draws for θ = 1 and the same seed."""
    if not batch and memory_format is torch.channels_last:
        x = zeros(5, 7, 3, dtype=dtype).permute(2, 0, 1)
    else:
        x = zeros(*batch, 3, 5, 7, dtype=dtype, memory_format=memory_format if batch else torch.contiguous_format)
    x = torch.empty_like(x).copy_(torch.randn(x.shape, device=DEVICE))
    theta, one = some_theta(grain), torch.ones(1, 1, 1, device=DEVICE)
    epsilon = add_noise(zeros(*x.shape), one, seed(), draw_per == "batch")
    noisy = add_noise(x, theta, seed(), draw_per == "batch")
    assert (noisy.dtype, noisy.stride()) == (x.dtype, x.stride())
    torch.testing.assert_close(noisy, (x.float() + theta * epsilon).to(dtype))
    if batch:
        assert (epsilon == epsilon[:1]).all() == (draw_per == "batch")


@dtypes
def test_every_dtype_is_normal_even_with_other_theta(dtype):
    noisy = fused_noise(zeros(40, 3, 5, 7, dtype=dtype), torch.full((3, 1, 1), 2.0, device=DEVICE).double(), "sample")
    assert stats.kstest(noisy.double().cpu().numpy().ravel() / 2, "norm").pvalue > 1e-3


def test_images_elements_and_calls_are_independent():
    torch.manual_seed(0)
    one, two = draws(16, 9, 9, 9), draws(16, 9, 9, 9)
    bound = 4.5 / one.numel() ** 0.5
    assert abs((one * two).mean()) < bound
    for dim, shift in itertools.product(range(4), (1, 2, 4)):
        other = one.roll(shift, dim)
        assert abs((one * other).mean()) < bound
        assert abs(((one**2 - 1) * (other**2 - 1)).mean()) < 2 * bound


@shares
def test_neither_memory_format_nor_blocks_change_the_numbers(draw_per, monkeypatch):
    contiguous, last = (zeros(6, 3, 5, 7, memory_format=f) for f in FORMATS)
    odd = zeros(6, 3, 7, 5).transpose(2, 3)
    theta = some_theta("element")
    expected = add_noise(contiguous, theta, seed(), draw_per == "batch")
    gradient = theta_gradient(expected, seed(), theta.shape, draw_per == "batch")
    for block, programs in ((512, 1024), (16, 1)):
        monkeypatch.setattr(fused, "_BLOCK", block)
        monkeypatch.setattr(fused, "_PROGRAMS", programs)
        for x in (contiguous, last, odd):
            noisy = add_noise(x, theta, seed(), draw_per == "batch")
            torch.testing.assert_close(noisy, expected, rtol=0, atol=0)
            found = theta_gradient(noisy, seed(), theta.shape, draw_per == "batch")
            torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize(
    "shape", [(1, 3, 5, 7), (4, 3, 11), (3, 11), (2, 3, 2, 5, 3), (3, 2, 5, 3), (5, 3), (5, 3, 1, 1)]
)
def test_any_number_of_dimensions(shape):
    batched = shape[0] != 3
    image = shape[1:] if batched else shape
    for theta_shape in {image, (3, *(1,) * (len(image) - 1)), (1,) * len(image)}:
        theta = torch.rand(theta_shape, device=DEVICE, requires_grad=True)
        epsilon = add_noise(zeros(*shape), torch.ones((1,) * len(image), device=DEVICE), seed(), False)
        noisy = add_noise(zeros(*shape), theta, seed(), False)
        torch.testing.assert_close(noisy, theta * epsilon)
        g = torch.randn(shape, device=DEVICE)
        (found,) = torch.autograd.grad(noisy, theta, g)
        torch.testing.assert_close(found, (g * epsilon).sum_to_size(theta_shape))


@grains
@shares
@dtypes
@formats
def test_gradients(grain, draw_per, dtype, memory_format):
    x = zeros(6, 3, 5, 7, dtype=dtype, memory_format=memory_format).requires_grad_()
    theta = some_theta(grain).requires_grad_()
    torch.manual_seed(2)
    noisy = fused_noise(x, theta, draw_per)
    torch.manual_seed(2)
    epsilon = draws(6, 3, 5, 7, draw_per=draw_per)
    for other_format in FORMATS:
        g = torch.randn_like(epsilon).to(dtype).contiguous(memory_format=other_format)
        for_x, for_theta = torch.autograd.grad(noisy, (x, theta), g, retain_graph=True)
        assert torch.equal(for_x, g)
        torch.testing.assert_close(for_theta, (g.float() * epsilon).sum_to_size(theta.shape), rtol=1e-4, atol=1e-4)
    broadcast = torch.ones((), dtype=dtype, device=DEVICE).expand(x.shape)
    (for_theta,) = torch.autograd.grad(noisy, theta, broadcast)
    torch.testing.assert_close(for_theta, epsilon.sum_to_size(theta.shape), rtol=1e-4, atol=1e-4)


@dtypes
def test_the_gradient_has_the_dtype_of_theta(dtype):
    theta = some_theta("channel").to(dtype).requires_grad_()
    for noisy in (
        fused_noise(zeros(2, 3, 5, 7), theta, "sample"),
        add_noise(zeros(2, 3, 5, 7), theta, seed(), False),
    ):
        (found,) = torch.autograd.grad(noisy.sum(), theta)
        assert found.dtype == dtype


def test_a_gradient_can_be_differentiated():
    x = torch.randn(5, 3, 5, 7, device=DEVICE, requires_grad=True)
    theta = some_theta("channel").requires_grad_()
    torch.manual_seed(0)
    noisy = fused_noise(x, theta, "sample")
    epsilon = (noisy - x).detach() / theta.detach()
    (for_theta,) = torch.autograd.grad((noisy**3).sum(), theta, create_graph=True)
    (second,) = torch.autograd.grad(for_theta.sum(), x)
    torch.testing.assert_close(second, (6 * noisy * epsilon).detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("operator", [False, True])
def test_no_theta_kernel_runs_without_a_theta_gradient(operator, monkeypatch):
    launches = []
    launch_sum = fused._launch_sum
    monkeypatch.setattr(fused, "_launch_sum", lambda *args: launches.append(1) or launch_sum(*args))
    x, theta = zeros(2, 3, 5, 7).requires_grad_(), some_theta("element")

    def noisy():
        return add_noise(x, theta, seed(), False) if operator else fused_noise(x, theta, "sample")

    noisy().sum().backward()
    assert (x.grad == 1).all() and not launches
    theta.requires_grad_()
    noisy().sum().backward()
    assert launches == [1]


def test_only_torchs_generator_decides_the_numbers():
    torch.manual_seed(1)
    first, second = draws(2, 3, 5, 7), draws(2, 3, 5, 7)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(draws(2, 3, 5, 7), first)
    assert torch.equal(draws(2, 3, 5, 7), second)
    torch.manual_seed(2)
    assert not torch.equal(draws(2, 3, 5, 7), first)


def test_a_checkpointed_network_repeats_its_draws():
    theta = some_theta("element").requires_grad_()
    x = torch.randn(2, 3, 5, 7, device=DEVICE, requires_grad=True)

    def loss(x):
        return (fused_noise(x, theta, "sample") ** 3).sum()

    torch.manual_seed(4)
    expected = torch.autograd.grad(loss(x), (x, theta))
    torch.manual_seed(4)
    loss_again = torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False)
    for found, wanted in zip(torch.autograd.grad(loss_again, (x, theta)), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_the_operator_can_be_vmapped(randomness):
    theta = some_theta("channel")

    def noisy(x):
        return add_noise(x, theta, torch.randint(2**62, (1,), device=DEVICE), False)

    y = torch.func.vmap(noisy, randomness=randomness)(zeros(3, 2, 3, 5, 7))
    assert torch.equal(y[0], y[1]) == (randomness == "same")


on_a_gpu = pytest.mark.skipif(INTERPRETED, reason="needs a GPU")


@on_a_gpu
@dtypes
@formats
def test_more_elements_than_32_bits_can_count(dtype, memory_format):
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    x = zeros(2**11 + 2, 2**10, 32, 32, dtype=dtype).to(memory_format=memory_format)
    theta = torch.ones(2**10, 1, 1, device=DEVICE)
    few = zeros(6, 2**10, 32, 32, dtype=dtype)
    noisy = add_noise(x, theta, seed(), False)
    torch.testing.assert_close(noisy[:6], add_noise(few, theta, seed(), False), rtol=0, atol=0)
    last = noisy[-2:].float()
    assert abs(last.std() - 1) < 0.01 and not torch.equal(last[0], last[1])


@on_a_gpu
def test_a_cuda_graph_redraws_at_every_replay():
    theta = torch.ones(8, 1, 1, device=DEVICE, requires_grad=True)
    x = zeros(4, 8, 16, 16)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.autograd.grad(fused_noise(x, theta, "sample").sum(), theta)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        noisy = fused_noise(x, theta, "sample")
        (gradient,) = torch.autograd.grad(noisy.sum(), theta)
    seen = []
    for _ in range(3):
        graph.replay()
        seen.append(noisy.detach().clone())
        torch.testing.assert_close(gradient.flatten(), seen[-1].sum((0, 2, 3)), rtol=1e-4, atol=1e-3)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@on_a_gpu
@pytest.mark.filterwarnings("ignore")  # Inductor has much to say about a GPU
@shares
@formats
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(draw_per, memory_format, dynamic, backend):
    from perturbify.perturbation import Perturbation

    torch._dynamo.reset()
    module = Perturbation((8, 16, 16), draw_per=draw_per, device=DEVICE)
    compiled = torch.compile(lambda x: 2 * module(2 * x), fullgraph=True, dynamic=dynamic, backend=backend)
    for batch in (16, 12):
        x = zeros(batch, 8, 16, 16, memory_format=memory_format).requires_grad_()
        noisy = compiled(x)
        assert noisy.stride() == x.stride()
        epsilon = (noisy / 2 / module.theta).detach()
        assert (
            stats.kstest(epsilon.double().cpu().numpy()[: batch if draw_per == "sample" else 1].ravel(), "norm").pvalue
            > 1e-4
        )
        assert not torch.equal(compiled(x), noisy)
        for_x, for_theta = torch.autograd.grad(noisy.sum(), (x, module.theta))
        assert (for_x == 4).all()
        torch.testing.assert_close(for_theta, 2 * epsilon.sum(0), rtol=1e-3, atol=1e-3)


@on_a_gpu
@shares
@grains
def test_the_module_matches_torch_in_distribution(draw_per, grain, monkeypatch):
    from perturbify import perturbation

    monkeypatch.setattr(perturbation, "_WORTH_A_LAUNCH", 1)
    calls = []
    monkeypatch.setattr(fused, "fused_noise", lambda *args: calls.append(1) or fused_noise(*args))
    module = perturbation.Perturbation(THETAS[grain], draw_per=draw_per, theta_init=0.5, device=DEVICE)
    x = zeros(400, 3, 5, 7)
    ours = module(x)
    assert calls == [1]
    monkeypatch.setattr(perturbation, "_HAS_TRITON", False)
    theirs = module(x)
    assert calls == [1]
    first = slice(None) if draw_per == "sample" else slice(1)
    pair = [(y[first] / 0.5).detach().cpu().numpy().ravel() for y in (ours, theirs)]
    assert stats.ks_2samp(*pair).pvalue > 1e-4


@on_a_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_kernel_runs_on_the_tensors_device():
    x = torch.zeros(4, 3, 5, 7, device="cuda:1")
    theta = torch.ones(3, 1, 1, device="cuda:1", requires_grad=True)
    noisy = fused_noise(x, theta, "sample")
    noisy.sum().backward()
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(theta.grad.flatten(), noisy.detach().sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
