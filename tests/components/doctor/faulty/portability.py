"""Networks that fail on another device, in another dtype or in the export."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from tests.components.doctor.base_networks import MLP, Reader
from tests.components.doctor.check_inputs import CLASSES
from tests.components.doctor.registry import fault


@fault("device")
class MadeOnCpu(MLP):
    def forward(self, x):
        return super().forward(x + torch.zeros(len(x), 12) + 0.0)


@fault("device", "table", inputs="tokens")
class PositionsOnCpu(Reader):
    def __init__(self):
        super().__init__()
        self.table = Positions()


class Positions(nn.Embedding):
    def __init__(self):
        super().__init__(30, 12, padding_idx=0)
        self.positions = nn.Embedding(50, 12)

    def forward(self, tokens):
        return super().forward(tokens) + self.positions.weight[: tokens.shape[1]] * torch.ones(tokens.shape[1], 1)


@fault("device", "lstm", inputs="tokens")
class StateOnCpu(Reader):
    def forward(self, tokens):
        state = torch.zeros(1, len(tokens), 16)
        states, _ = self.lstm(self.table(tokens), (state, torch.zeros_like(state)))
        return self.out(states[torch.arange(len(tokens), device=tokens.device), (tokens != 0).sum(1) - 1])


@fault("device", "first")
class InputToCpu(MLP):
    def forward(self, x):
        return super().forward(x.to("cpu"))


@fault("device", "out")
class HiddenToCpu(MLP):
    def forward(self, x):
        return self.out(self.hidden(x).cpu())


@fault("device")
class OutputToCpu(MLP):
    def forward(self, x):
        return super().forward(x).to(device="cpu")


@fault("device")
class InputThroughNumPy(MLP):
    def forward(self, x):
        return super().forward(x + torch.from_numpy(x.detach().numpy() ** 2))


@fault("dtype", "", level="full")
class FixedType(MLP):
    def forward(self, x):
        return super().forward(x) @ torch.eye(CLASSES, dtype=torch.float32, device=x.device)


def refuse(network):
    raise RuntimeError("Could not guard on data-dependent expression Eq(u0, 1) in self.middle, a layer of 2")


def trace(network):
    """Call forward and hide its error behind another one, as the exporter does."""
    try:
        network(torch.zeros(2, 9, dtype=torch.int64))
    except RuntimeError as error:
        raise ValueError("step 1 of 3 failed") from error


def refuse_to_pack(network):
    raise TypeError("zeros(): argument 'size' failed to unpack the object at pos 2")


@fault("export", level="full", inputs="tokens", more={"export": refuse_to_pack})
class PacksSequences(Reader):
    def forward(self, tokens):
        lengths = (tokens != 0).sum(1).cpu()
        packed = pack_padded_sequence(self.table(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.out(self.lstm(packed)[1][0][-1])


class Guarded(nn.LSTM):
    def forward(self, x):
        if len(x) == 2 and not x.requires_grad:
            raise RuntimeError("a table of Eq(u0, 1)\n\nFor more information, run with TORCH_LOGS")
        return super().forward(x)


@fault("export", "lstm", level="full", inputs="tokens", more={"export": torch.no_grad()(trace)})
class FailsToExport(Reader):
    def __init__(self):
        super().__init__()
        self.lstm = Guarded(12, 16, batch_first=True)


@fault("export", "middle", level="full", more={"export": refuse})
def not_exportable():
    return MLP()
