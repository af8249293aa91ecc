import itertools

import pytest
import torch
from torch.nn.functional import pad

from components.data.augment import SHIFT, augment


@pytest.fixture
def images() -> torch.Tensor:
    """Without a zero: where there is one, it was filled."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (64, 3, 9, 12), generator=rng).to(torch.uint8)


def test_none_gives_back_the_very_tensor(images):
    assert augment(images, "none", 0, 1, 0) is images


def test_the_same_seed_epoch_and_batch_give_the_same_pixels_and_any_other_give_others(images):
    places = list(itertools.product((0, 1, 2**32 - 1), (1, 2), (0, 1)))
    first, second = ([augment(images, "shift", *place) for place in places] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(first, 2))


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Move a picture (C, H, W) by pixels; what comes in is 0."""
    _, height, width = image.shape
    edge = pad(image, (SHIFT,) * 4)
    return edge[:, SHIFT - down : SHIFT - down + height, SHIFT - right : SHIFT - right + width]


def test_a_shift_moves_each_image_by_two_pixels_at_most_and_fills_with_zero(images):
    every_way = list(itertools.product(range(-2, 3), repeat=2))
    taken = []
    for before, after in zip(images, augment(images, "shift", 0, 1, 0), strict=True):
        ways = [way for way in every_way if torch.equal(shifted(before, *way), after)]
        assert len(ways) == 1
        taken += ways
    assert {down for down, _ in taken} == {right for _, right in taken} == {-2, -1, 0, 1, 2}
    assert len(set(taken)) > 15  # of 25


def test_a_shift_keeps_shape_and_dtype_and_leaves_the_images_as_they_were(images):
    before = images.clone()
    after = augment(images, "shift", 0, 1, 0)
    assert (after.shape, after.dtype, after.device) == (images.shape, torch.uint8, images.device)
    assert torch.equal(images, before)


def test_a_shift_keeps_the_memory_format(images):
    assert augment(images, "shift", 0, 1, 0).is_contiguous()


def test_a_shift_draws_nothing_from_torchs_own_chance(images):
    before = torch.get_rng_state()
    augment(images, "shift", 0, 1, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_of_one_pixel_is_shifted_too():
    after = augment(torch.full((200, 1, 1, 1), 7, dtype=torch.uint8), "shift", 0, 1, 0)
    assert after.unique().tolist() == [0, 7]
