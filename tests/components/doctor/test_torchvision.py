"""torchvision's classifiers, with their default initialization, fail no check."""

import gc
import time

import pytest
import torch
import torchvision

from tests.components.doctor.check_inputs import check_input
from torchmill.components.doctor.examine import examine
from torchmill.components.doctor.verdict import Report
from torchmill.components.models.simple_cnn import SimpleCNN

SIDES = {"inception_v3": 299, "maxvit_t": 224, "vit": 224, "alexnet": 96, "squeezenet": 96}


def report_on(name: str, side: int | None = None) -> Report:
    torch.manual_seed(0)
    auxiliary = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(name, weights=None, num_classes=10, **auxiliary)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    samples = 8 if parameters < 3e7 else 4 if parameters < 1.5e8 else 2
    side = side or next((side for start, side in SIDES.items() if name.startswith(start)), 64)
    images = torch.randn(samples, 3, side, side)
    return examine(check_input(network, images, samples=samples, num_outputs=10), "quick")


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("squeezenet1_0", "resnet18", "shufflenet_v2_x0_5")),
    ],
)
def test_a_network_of_torchvision_passes(name):
    report = report_on(name)
    assert report.worst == "pass", "\n".join(report.lines())


def test_a_vision_transformer_of_torchvision_passes():
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 3, 4, 32, 64, num_classes=10)
    report = examine(check_input(network, torch.randn(8, 3, 32, 32), samples=8, num_outputs=10), "full")
    assert report.worst == "pass", "\n".join(report.lines())


def test_a_quick_examination_of_the_reference_network_is_quick():
    quick_input = check_input(SimpleCNN(), torch.randn(64, 1, 28, 28), samples=64, num_outputs=10)
    assert quick_input.make_optimizer
    # The first optimizer imports much of torch, which training needs anyway.
    quick_input.make_optimizer(quick_input.network)
    start = time.process_time()  # of this process only, since the machine may be busy
    report = examine(quick_input, "quick")
    assert report.worst == "pass", "\n".join(report.lines())
    assert time.process_time() - start < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_no_network_of_torchvision_fails(name):
    report = report_on(name)
    gc.collect()
    print(name, f"{report.seconds:.1f} s", [v for v in report.verdicts if v.verdict != "pass"])
    assert report.worst != "fail", "\n".join(report.lines())
