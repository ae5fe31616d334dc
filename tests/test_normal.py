"""Normal numbers: their distribution, their independence, and what they follow from."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from perturbify import normal
from perturbify.normal import standard_normal_like

native = pytest.mark.skipif(normal._normal is None, reason="perturbify was installed where there was no C compiler")

MANY = 1 << 22
CHECKSUM = -89281381926652632


@pytest.fixture(scope="module")
def many():
    torch.manual_seed(5)
    return standard_normal_like(torch.empty(MANY)).double().numpy()


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_distribution(many):
    assert stats.kstest(many, "norm").pvalue > 1e-3
    tails = np.abs(many) > np.array([[1.0], [2.0], [3.0], [4.0], [4.75]])
    for found, expected in zip(tails.sum(1), 2 * stats.norm.sf([1, 2, 3, 4, 4.75]), strict=True):
        assert stats.binomtest(int(found), MANY, expected).pvalue > 1e-4
    assert np.abs(many).max() < 5.78
    octants = np.bincount(((np.arctan2(many[::2], many[1::2]) / np.pi + 1) * 4).astype(int) % 8)
    assert stats.chisquare(octants).pvalue > 1e-3


@pytest.mark.parametrize("power", [1, 2])
def test_numbers_at_any_distance_are_independent(many, power):
    """Of the same pair (16 apart), of neighbouring generators, of the next block, and of another call."""
    torch.manual_seed(6)
    values = many**power - (power - 1)
    other = standard_normal_like(torch.empty(MANY)).double().numpy() ** power - (power - 1)
    spread = values.var()
    lags = [1, 2, 15, 16, 17, 31, 32, 33, 64, 8192, 16368, 16384, 16400]
    scores = [(values[:-lag] * values[lag:]).mean() / spread * MANY**0.5 for lag in lags]
    scores.append((values * other).mean() / spread * MANY**0.5)
    assert np.abs(scores).max() < 4.5


@given(st.integers(0, 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_every_seed_gives_normal_numbers(seed):
    torch.manual_seed(seed)
    assert stats.kstest(standard_normal_like(torch.empty(20_000)).numpy(), "norm").pvalue > 1e-5


@native
@given(st.integers(0, 100_000), st.integers(0, 2**63 - 1), st.integers(1, 80))
@settings(deadline=None)
def test_it_writes_exactly_the_given_memory(count, seed, threads):
    memory = torch.full((count + 64,), 7.0)
    normal._normal.fill(memory[32:].data_ptr(), count, seed, threads)
    assert (memory[:32] == 7).all() and (memory[32 + count :] == 7).all()
    alone = torch.empty(count)
    normal._normal.fill(alone.data_ptr(), count, seed, 1)
    assert torch.equal(memory[32 : 32 + count], alone)
    longer = torch.empty(count + 1000)
    normal._normal.fill(longer.data_ptr(), count + 1000, seed, 2)
    assert torch.equal(longer[:count], alone)


@native
def test_a_seed_gives_the_same_numbers_everywhere():
    found = torch.empty(100_000)
    normal._normal.fill(found.data_ptr(), len(found), 2020, 1)
    bits = found.view(torch.int32).to(torch.int64)
    assert (bits * torch.arange(1, 100_001)).sum().item() == CHECKSUM


@native
@pytest.mark.parametrize(("count", "threads"), [(-1, 1), (5, 0)])
def test_impossible_counts_are_refused(count, threads):
    with pytest.raises(ValueError, match="at least"):
        normal._normal.fill(torch.empty(5).data_ptr(), count, 0, threads)


@pytest.mark.parametrize("shape", [(3,), (4, 16, 32, 32), (256, 1), (5, 1, 300)])
def test_only_torchs_generator_decides_the_numbers(shape, two_threads):
    torch.manual_seed(1)
    first, second = standard_normal_like(torch.empty(shape)), standard_normal_like(torch.empty(shape))
    assert not torch.equal(first, second)
    torch.set_num_threads(3 - torch.get_num_threads() if torch.get_num_threads() < 3 else 1)
    torch.manual_seed(1)
    assert torch.equal(standard_normal_like(torch.full(shape, torch.nan)), first)
    assert torch.equal(standard_normal_like(torch.empty(shape)), second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shape_dtype_and_layout(dtype, memory_format):
    x = torch.empty(4, 16, 32, 32, dtype=dtype).contiguous(memory_format=memory_format)
    drawn = standard_normal_like(x)
    assert (drawn.shape, drawn.dtype, drawn.stride()) == (x.shape, x.dtype, x.stride())
    assert drawn.double().std().item() == pytest.approx(1, abs=0.02)


@native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_still_draw():
    numbers = np.zeros(1 << 20, np.float32)
    normal._normal.fill(numbers.ctypes.data, numbers.size, 1, 2)
    child = os.fork()
    if child == 0:
        again = np.zeros_like(numbers)
        normal._normal.fill(again.ctypes.data, again.size, 1, 2)
        os._exit(0 if np.array_equal(again, numbers) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_decides_who_shares_a_draw(randomness):
    drawn = torch.func.vmap(standard_normal_like, randomness=randomness)(torch.empty(3, 1000))
    assert torch.equal(drawn[0], drawn[1]) == (randomness == "same")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_traced_draw_is_drawn_again():
    traced = torch.jit.trace(standard_normal_like, torch.empty(1000), check_trace=False)
    assert not torch.equal(traced(torch.empty(1000)), traced(torch.empty(1000)))


def test_a_graph_draws_again_at_every_run():
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: x + standard_normal_like(x))(torch.zeros(1000))
    assert not torch.equal(graph(torch.zeros(1000)), graph(torch.zeros(1000)))


def test_without_the_compiled_module_torch_draws(monkeypatch):
    monkeypatch.setattr(normal, "_normal", None)
    torch.manual_seed(0)
    drawn = standard_normal_like(torch.empty(1000))
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.randn(1000))
