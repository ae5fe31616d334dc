"""Every augmented image is a window of its own padded input."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbify.data import augment


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(image: torch.Tensor, padding: int, flip: bool) -> list[torch.Tensor]:
    _, height, width = image.shape
    padded = F.pad(image, [padding] * 4)
    found = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return found + [window.flip(2) for window in found] if flip else found


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(0, 5),
    channels=st.integers(1, 4),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_each_image_gets_its_own_shift_and_flip(
    batch: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    x = torch.randint(1, 1_000, (batch, channels, height, width), generator=seeded(seed)).float()
    before = x.clone()
    result = augment(x, crop_padding=padding, flip=flip, generator=seeded(seed))
    assert result.shape == x.shape
    assert result.dtype == x.dtype
    assert torch.equal(x, before)
    for image, augmented in zip(x, result, strict=True):
        assert any(torch.equal(augmented, window) for window in windows(image, padding, flip))


def test_the_generator_makes_it_reproducible() -> None:
    x = torch.rand(16, 3, 8, 8)
    first, second, other = (augment(x, crop_padding=4, flip=True, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_global_state_serves_only_without_a_generator() -> None:
    x = torch.rand(16, 3, 8, 8)
    torch.manual_seed(5)
    first = augment(x, crop_padding=2, flip=True)
    torch.manual_seed(5)
    assert torch.equal(augment(x, crop_padding=2, flip=True), first)
    before = torch.get_rng_state()
    augment(x, crop_padding=2, flip=True, generator=seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_flips_and_shifts_are_uniform_across_images() -> None:
    n = 2_000
    row = torch.arange(1.0, 6.0).expand(n, 1, 5, 5)
    mirrored = augment(row, crop_padding=0, flip=True, generator=seeded(0))[:, 0, 0, 0] == 5
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / n**0.5

    shifted = augment(row, crop_padding=2, flip=False, generator=seeded(0))[:, 0, 2, 2]
    counts = shifted.long().bincount(minlength=6)[1:]
    expected = n / 5
    assert ((counts - expected).abs() < 4 * expected**0.5).all()


def test_without_augmentation_the_input_itself_is_returned() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert augment(x, crop_padding=0, flip=False) is x


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("generator", [None, "cpu", "cuda"])
def test_it_works_on_the_device_of_the_images(generator: str | None) -> None:
    x = torch.rand(8, 3, 6, 6, device="cuda")
    drawn_from = None if generator is None else torch.Generator(generator).manual_seed(0)
    assert augment(x, crop_padding=2, flip=True, generator=drawn_from).device == x.device
