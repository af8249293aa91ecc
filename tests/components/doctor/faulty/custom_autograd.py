"""Networks with a faulty or unusual custom autograd function."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn

from tests.components.doctor.base_networks import MLP
from tests.components.doctor.registry import fault


class WrongSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        return gradient * x


class WrongWeight(torch.autograd.Function):
    @staticmethod
    def forward(x, weight):
        return x @ weight.t()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x / len(x)


class WrongShape(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        return gradient.sum(1)


class HalvesInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        gradient[x < 0] = 0
        gradient *= 0.5
        return gradient


class CutsInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        return gradient.masked_fill_(x < 0, 0)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        return gradient


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        return -gradient


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.apply_it = function.apply

    def forward(self, x):
        return self.apply_it(x)


class WithFunction(MLP):
    def __init__(self, function):
        super().__init__()
        self.custom = Applies(function)

    def forward(self, x):
        return self.out(self.custom(self.hidden(x) - 0.1))


@fault("custom_function", "custom")
def wrong_backward():
    return WithFunction(WrongSquare)


@fault("custom_function", "custom")
def wrong_backward_in_place():
    return WithFunction(HalvesInPlace)


@fault("custom_function", "custom", "warn")
def right_backward_in_place():
    return WithFunction(CutsInPlace)


@fault("custom_function", "middle")
class WrongWeightBackward(MLP):
    def __init__(self):
        super().__init__()
        self.middle = OwnLinear(24, 24, bias=False)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return WrongWeight.apply(x, self.weight)


@fault("backward", "custom")
def backward_with_wrong_shape():
    return WithFunction(WrongShape)


@fault("custom_function", "custom", "warn")
def straight_through():
    return WithFunction(Sign)


@fault("custom_function", "custom", "warn")
def reversed_gradient():
    return WithFunction(Reversal)
