"""Networks that mix the samples of a batch or fix its size."""

from torch import nn

from tests.components.doctor.base_networks import CNN, MLP, Reader
from tests.components.doctor.registry import fault


@fault("mixing", "shuffle")
class ViewMixes(MLP):
    def __init__(self):
        super().__init__()
        self.shuffle = Shuffle()

    def forward(self, x):
        return self.out(self.shuffle(self.hidden(x)))


class Shuffle(nn.Module):
    def forward(self, x):
        return x.t().reshape(x.shape)


@fault("mixing", "lstm", inputs="tokens", alone=False)
def not_batch_first():
    return Reader(batch_first=False)


@fault("mixing", "norm1", inputs="images")
def batch_statistics_in_evaluation():
    return CNN(lambda n: nn.BatchNorm2d(n, track_running_stats=False))


@fault("mixing", "gate")
class SoftmaxOverBatch(MLP):
    def __init__(self):
        super().__init__()
        self.gate = nn.Softmax(dim=0)

    def forward(self, x):
        return self.out(self.gate(self.hidden(x)))


@fault("mixing")
class DividesByBatchDeviation(MLP):
    """The deviation of a batch of one is nan, as a consequence."""

    def forward(self, x):
        return super().forward(x / x.std(0))


@fault("mixing")
class MinusBatchMean(MLP):
    def forward(self, x):
        x = self.hidden(x)
        return self.out(x - x.mean(0))


@fault("mixing", "attention", inputs="images")
class AttentionOverBatch(CNN):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)

    def forward(self, x):
        tokens = self.features(x).flatten(2).transpose(1, 2)
        return self.out(self.attention(tokens, tokens, tokens)[0].mean(1))


@fault("mixing", "", "warn")
class MixesInTraining(MLP):
    def forward(self, x):
        x = self.hidden(x)
        return self.out(x - 0.5 * x.mean(0) if self.training else x)


@fault("batch_size")
class FixedBatch(MLP):
    def forward(self, x):
        return self.out(self.hidden(x).view(16, -1))


@fault("batch_size")
class Squeezes(MLP):
    def forward(self, x):
        return super().forward(x).squeeze()


@fault("batch_size", more={"samples": 64})
class FixedBatchOf64(MLP):
    def forward(self, x):
        return self.out(self.hidden(x).view(64, -1))
