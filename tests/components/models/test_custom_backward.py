import torch
from torch.autograd import gradcheck

from torchmill.components.models.custom_backward import CustomBackward, SwishFunction


def test_its_backward_is_the_derivative_of_its_forward():
    x = torch.linspace(-6, 6, 40, dtype=torch.float64, requires_grad=True)
    assert gradcheck(SwishFunction.apply, x)


def test_it_agrees_with_torchs_own_operation():
    x = torch.randn(64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours = torch.autograd.grad(SwishFunction.apply(x).sum(), x)[0]
    theirs = torch.autograd.grad(torch.nn.functional.silu(x).sum(), x)[0]
    torch.testing.assert_close(SwishFunction.apply(x), torch.nn.functional.silu(x))
    torch.testing.assert_close(ours, theirs)


def test_no_module_has_a_backward_method_since_autograd_would_not_call_it():
    assert not [layer for layer in CustomBackward().modules() if hasattr(layer, "backward")]
    assert "never called" in " ".join((CustomBackward.__doc__ or "").split())
