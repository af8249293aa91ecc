import hashlib
import itertools

import pytest
import torch
from torch.nn.functional import one_hot, pad

from tests.toy import toy_numbers, toy_tokens
from torchmill.components.config import load
from torchmill.components.data.augmentation import Augmentation
from torchmill.components.data.config import AUGMENTATIONS, usual_strengths
from torchmill.components.errors import ConfigError, UserError
from torchmill.components.refs import DataRef
from torchmill.components.training.config import TrainConfig

MOST = 2
"""Pixels of a usual shift."""


def augmentation(config: TrainConfig, data: DataRef, seed: int) -> Augmentation:
    return Augmentation(data, seed, config.augment, config.mixup, config.cutmix)


def pixels(channels: int, samples: int = 64) -> torch.Tensor:
    """Return images without zeros, so that a zero in a result was filled in."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (samples, channels, 9, 12), generator=rng).to(torch.uint8)


@pytest.fixture
def images() -> torch.Tensor:
    return pixels(3)


@pytest.fixture
def augment(toy):
    """Change images alone: their labels come back as they were."""

    def changed(images: torch.Tensor, names: str, seed: int = 0, epoch: int = 1, batch: int = 0) -> torch.Tensor:
        data = toy.model_copy(update={"shape": tuple(images.shape[1:])})
        labels = torch.arange(len(images)) % 10
        after, same = augmentation(TrainConfig.model_validate({"augment": names}), data, seed)(
            (images, labels), epoch, batch, torch.arange(len(images)) + len(images) * batch
        )
        assert same is labels
        return after

    return changed


def test_none_gives_back_the_very_tensor(augment, images):
    assert augment(images, "none") is images


every_change = pytest.mark.parametrize("name", AUGMENTATIONS.names())


@every_change
def test_the_same_seed_epoch_and_batch_give_the_same_pixels_and_any_other_give_others(augment, name):
    images = pixels(3, 16)
    places = list(itertools.product((0, 2**32 - 1), (1, 2), (0, 1)))
    first, second = ([augment(images, name, *place) for place in places] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(first, 2))


@every_change
@pytest.mark.parametrize("channels", [1, 3])
def test_a_change_keeps_shape_and_dtype_and_leaves_the_images_as_they_were(augment, name, channels):
    images = pixels(channels, 16)
    before = images.clone()
    after = augment(images, name)
    assert (after.shape, after.dtype, after.device) == (images.shape, torch.uint8, images.device)
    assert torch.equal(images, before) and not torch.equal(after, before)


@every_change
def test_a_change_draws_nothing_from_torchs_own_chance(augment, name):
    before = torch.get_rng_state()
    augment(pixels(1, 4), name)
    assert torch.equal(torch.get_rng_state(), before)


@every_change
def test_images_are_changed_each_in_its_own_way(augment, name):
    after = augment(pixels(3, 1).expand(32, -1, -1, -1).clone(), name)
    assert len(after.unique(dim=0)) > 1


@every_change
def test_a_change_of_the_least_strength_and_of_the_greatest_is_one(augment, name):
    low, high = AUGMENTATIONS[name].range("strength")
    for strength in (low, min(high, 30)):  # a shift by 1,000 pixels would be large, not another one
        after = augment(pixels(3, 4), f"{name}:{strength}")
        assert (after.shape, after.dtype) == ((4, 3, 9, 12), torch.uint8)


@every_change
def test_a_strength_out_of_bounds_is_refused_with_its_bounds_and_its_meaning(name):
    (low, high), meaning = AUGMENTATIONS[name].range("strength"), AUGMENTATIONS[name].constant("MEANING")
    (usual,) = (float(item.partition(":")[2]) for item in usual_strengths() if item.startswith(f"{name}:"))
    for strength in (high * 1.5, low - 1, "nan", "strong", ""):
        with pytest.raises(ConfigError) as raised:
            load(None, {"train.augment": f"{name}:{strength}"})
        said = str(raised.value)
        assert said.startswith(f"train.augment: '{name}:{strength}': the strength of {name} is a number from ")
        assert f"{low:g} to {high:g} ({meaning})" in said and f"{name}:{usual:g}" in said


def test_an_unknown_change_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match=r"train.augment: unknown 'flipp'. Did you mean .*flip"):
        load(None, {"train.augment": "shift,flipp"})


def test_a_list_in_a_file_and_names_with_commas_on_the_command_line_are_the_same(tmp_path):
    (tmp_path / "run.yaml").write_text("train: {augment: [flip, 'shift:3']}")
    assert load(tmp_path / "run.yaml") == load(None, {"train.augment": "flip, shift:3"})
    assert load(None, {"train.augment": "none"}).train.augment == ()


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Shift an image (C, H, W) by pixels, and fill in zeros."""
    _, height, width = image.shape
    edge = pad(image, (MOST,) * 4)
    return edge[:, MOST - down : MOST - down + height, MOST - right : MOST - right + width]


def test_a_shift_moves_each_image_by_two_pixels_at_most_and_fills_with_zero(augment, images):
    every_way = list(itertools.product(range(-2, 3), repeat=2))
    taken = []
    for before, after in zip(images, augment(images, "shift"), strict=True):
        ways = [way for way in every_way if torch.equal(shifted(before, *way), after)]
        assert len(ways) == 1
        taken += ways
    assert {down for down, _ in taken} == {right for _, right in taken} == {-2, -1, 0, 1, 2}
    assert len(set(taken)) > 15  # of 25


def test_a_shift_of_a_seed_is_for_ever_the_same(augment, images):
    # Whoever changes this changes every result that was ever had with it.
    digest = hashlib.sha256(augment(images, "shift", seed=7, epoch=3, batch=5).numpy().tobytes()).hexdigest()
    assert digest.startswith("ea487ecef5b71fc3")


def test_a_shift_keeps_the_memory_format(augment, images):
    assert augment(images, "shift").is_contiguous()


def test_an_image_of_one_pixel_is_shifted_too(augment):
    after = augment(torch.full((200, 1, 1, 1), 7, dtype=torch.uint8), "shift")
    assert after.unique().tolist() == [0, 7]


@pytest.mark.parametrize(("name", "dimension"), [("flip", 3), ("flip_vertical", 2)])
def test_a_flip_mirrors_about_as_many_images_as_it_should(augment, name, dimension):
    images = pixels(1, 400)
    mirrored = images.flip(dimension)
    for probability in (0, 0.25, 1):
        after = augment(images, f"{name}:{probability}")
        turned = [torch.equal(one, other) for one, other in zip(after, mirrored, strict=True)]
        kept = [torch.equal(one, other) for one, other in zip(after, images, strict=True)]
        assert all(one != other for one, other in zip(turned, kept, strict=True))
        assert sum(turned) / 400 == pytest.approx(probability, abs=0.07)


def test_changes_act_one_after_the_other_each_with_its_own_chance(augment, images):
    both = augment(images, "flip:1,shift")
    assert not torch.equal(both, augment(images.flip(3), "shift"))  # drawn for the second place, not for the first
    assert torch.equal(augment(images, "flip:1,flip:1"), images)
    offsets = [
        next(
            way
            for way in itertools.product(range(-2, 3), repeat=2)
            if torch.equal(shifted(before.flip(2), *way), after)
        )
        for before, after in zip(images, both, strict=True)
    ]
    assert len(set(offsets)) > 15


def test_an_erased_rectangle_is_black(augment, images):
    after = augment(images, "erase:1")
    gone = (after != images).any(1)
    assert (after[:, 0][gone] == 0).all() and 0 < gone.float().mean() < 0.5


@pytest.mark.parametrize("name", ["autocontrast", "trivial", "rand"])
def test_images_that_are_neither_grey_nor_rgb_are_refused_where_colours_are_meant(augment, name):
    with pytest.raises(UserError, match=rf"--train.augment {name} .* grey or RGB .* 4 channels"):
        augment(pixels(4), name)
    assert augment(pixels(4), "rotate,erase").shape == (64, 4, 9, 12)


def mixed(data, inputs, labels, seed: int = 0, batch: int = 0, **config):
    return augmentation(TrainConfig(**config), data, seed)((inputs, labels), 1, batch, torch.arange(len(inputs)))


def test_alternating_flips_mirror_each_image_in_every_other_epoch_and_half_of_them_in_each(augment):
    images = pixels(3, 16)
    first, second, third = (augment(images, "flip_alternate", epoch=epoch) for epoch in (1, 2, 3))
    assert torch.equal(first, third) and torch.equal(first.flip(3), second)
    many = torch.arange(2000, dtype=torch.uint8).view(-1, 1, 1, 1) * torch.tensor([0, 1], dtype=torch.uint8)
    mirrored = (augment(many, "flip_alternate") != many).any(-1).float().mean().item()
    assert 0.4 < mirrored < 0.6


def test_mixup_mixes_images_and_labels_by_the_same_share(toy):
    images, labels = torch.full((50, 1, 28, 28), 0, dtype=torch.uint8), torch.arange(50) % 10
    images += (labels * 20).to(torch.uint8).view(-1, 1, 1, 1)  # so that a pixel tells its label
    for batch in range(5):
        inputs, shares = mixed(toy, images, labels, batch=batch, mixup=1.0)
        assert inputs.dtype == shares.dtype == torch.float32 and shares.shape == (50, 10)
        torch.testing.assert_close(shares.sum(1), torch.ones(50))
        assert (shares >= 0).all()
        torch.testing.assert_close(inputs[:, 0, 0, 0], (shares * torch.arange(10) * 20).sum(1), rtol=1e-5, atol=1e-4)
        own = shares[torch.arange(50), labels]
        assert own.min() < 0.999 or inputs.equal(images.float())


def test_cutmix_puts_a_rectangle_of_another_image_in_and_shares_labels_by_its_area(toy):
    images, labels = torch.zeros(50, 1, 28, 28, dtype=torch.uint8), torch.arange(50) % 10
    images += (labels * 20).to(torch.uint8).view(-1, 1, 1, 1)
    changed = False
    for batch in range(5):
        inputs, shares = mixed(toy, images, labels, batch=batch, cutmix=1.0)
        assert inputs.dtype == torch.uint8 and shares.shape == (50, 10)
        torch.testing.assert_close(shares.sum(1), torch.ones(50))
        for image, share, label in zip(inputs, shares, labels, strict=True):
            there = one_hot(image.flatten().long() // 20, 10).float().mean(0)
            torch.testing.assert_close(there, share, rtol=1e-4, atol=1e-5)
            foreign = image[0] != label * 20
            rows, columns = foreign.any(1).sum(), foreign.any(0).sum()
            assert foreign.sum() == rows * columns  # a rectangle
            changed = changed or bool(foreign.any())
    assert changed and (images[:, 0, 0, 0] == labels * 20).all()


def test_with_both_each_batch_gets_one_of_them(toy):
    images, labels = pixels(1)[:, :, :9, :9], torch.arange(64) % 10
    kinds = {mixed(toy, images, labels, batch=batch, mixup=1.0, cutmix=1.0)[0].dtype for batch in range(20)}
    assert kinds == {torch.float32, torch.uint8}


@pytest.mark.parametrize("config", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0, "augment": "flip"}])
def test_mixing_is_a_function_of_seed_epoch_and_batch(toy, config):
    images, labels = pixels(1), torch.arange(64) % 10
    before = torch.get_rng_state()
    (one, shares), (again, same), (other, _) = (mixed(toy, images, labels, seed=seed, **config) for seed in (3, 3, 4))
    assert torch.equal(one, again) and torch.equal(shares, same) and not torch.equal(one.float(), other.float())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_share_of_a_mix_is_of_the_beta_distribution(toy):
    images, labels = torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1])
    shares = []
    for batch in range(600):
        share = mixed(toy, images, labels, batch=batch, mixup=0.5)[1][0, 0].item()
        if share < 1:  # otherwise it was mixed with itself
            shares.append(share)
    drawn = torch.tensor(shares)
    assert drawn.mean() == pytest.approx(0.5, abs=0.06)
    assert drawn.var() == pytest.approx(1 / 8, abs=0.03)  # 1 / (4 (2 alpha + 1))


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_labels_and_targets_are_mixed_as_they_are(tmp_path, task):
    data = toy_numbers(tmp_path, task=task)
    inputs, labels = torch.randn(40, 6), torch.rand(40, 3)
    mixed_inputs, mixed_labels = mixed(data, inputs, labels, mixup=1.0)
    # What holds of both, being linear: the same pairs with the same share.
    together = torch.cat([inputs, labels], 1)
    solution = torch.linalg.lstsq(together.T.double(), torch.cat([mixed_inputs, mixed_labels], 1).T.double())
    torch.testing.assert_close(mixed_inputs.mean(0), inputs.mean(0))
    torch.testing.assert_close(mixed_labels.mean(0), labels.mean(0))
    assert solution.solution.isfinite().all() and not torch.equal(mixed_inputs, inputs)


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        (toy_tokens, {"augment": "flip"}, "changes images; toy has tokens"),
        (toy_numbers, {"augment": "shift"}, "changes images; toy has numbers"),
        (toy_tokens, {"mixup": 0.2}, "toy has tokens: mixup mixes images or numbers"),
        (toy_numbers, {"cutmix": 0.2}, "cutmix images alone"),
    ],
)
def test_what_cannot_be_changed_or_mixed_is_refused_in_words(tmp_path, kind, config, words):
    with pytest.raises(UserError, match=words):
        augmentation(TrainConfig.model_validate(config), kind(tmp_path), 0)
