import io
import random

import numpy as np
import pytest
import torch

from torchmill.components.training.rng import rng_states, seed_all, set_rng_states

CPU = torch.device("cpu")


def draws() -> list[float]:
    """Draw from all generators, also normal values: Python and NumPy cache every second one."""
    return [torch.rand(()).item(), random.random(), random.gauss(), np.random.random(), np.random.normal()]


@pytest.fixture(autouse=True)
def restored_rng():
    states = rng_states(CPU)
    yield
    set_rng_states(states, CPU)


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    drawn = []
    for seed in (3, 3, 4):
        seed_all(seed)
        drawn.append(draws())
    assert drawn[0] == drawn[1] and not set(drawn[0]) & set(drawn[2])


@pytest.mark.parametrize("drawn_before", [0, 1, 700])
def test_all_generators_continue_from_their_saved_state(drawn_before):
    seed_all(1)
    for _ in range(drawn_before):
        draws()
    states = rng_states(CPU)
    expected = [draws() for _ in range(5)]
    seed_all(2)
    draws()
    set_rng_states(states, CPU)
    assert [draws() for _ in range(5)] == expected


def test_reading_the_states_draws_nothing():
    seed_all(1)
    expected = draws()
    seed_all(1)
    rng_states(CPU)
    assert draws() == expected


def test_the_states_pass_through_a_file_that_may_hold_no_code():
    seed_all(1)
    draws()
    file = io.BytesIO()
    torch.save(rng_states(CPU), file)
    expected = draws()
    file.seek(0)
    set_rng_states(torch.load(file, weights_only=True), CPU)
    assert draws() == expected


def test_the_largest_seed_is_taken():
    seed_all(2**32 - 1)


def test_the_state_of_another_kind_of_device_is_left_out():
    states = rng_states(CPU)
    expected = draws()
    set_rng_states({**states, "cuda": torch.zeros(16, dtype=torch.uint8)}, CPU)
    assert draws() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graphics_cards_generator_is_restored():
    device = torch.device("cuda")
    states = rng_states(device)
    expected = torch.rand(5, device=device).tolist()
    torch.rand(7, device=device)
    set_rng_states(states, device)
    assert torch.rand(5, device=device).tolist() == expected


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device")
def test_a_second_graphics_cards_generator_is_restored():
    device = torch.device("cuda:1")
    states = rng_states(device)
    expected = torch.rand(5, device=device).tolist()
    set_rng_states(states, device)
    assert torch.rand(5, device=device).tolist() == expected
