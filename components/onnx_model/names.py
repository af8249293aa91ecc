"""Names within the ONNX files that we write: outputs, nodes, and keys of the metadata. Files of others keep them."""

# Outputs, beside the network's own, whose name the task has. The name of the input is the kind's.
PROBABILITIES = "probabilities"
LABELS = "labels"

# Within the graph.
PREPARED = "prepared"
"""Input of the network itself."""
BEFORE, BEHIND = AROUND = ("prepare.", "answer.")
"""Beginnings of the names of nodes that are not the network's."""

# Keys of ``metadata_props``.
CLASSES = "labels"
"""JSON list of the names of classes, labels or targets."""
KIND = "kind"
TASK = "task"
SHAPE = "shape"
"""JSON list: shape of one input."""
INPUT, PREPROCESSING, OUTPUT = "input", "preprocessing", "output"
"""What the model takes, how it prepares that, and what it gives, in words."""
INPUT_STATISTICS = "input_statistics"
"""JSON object: mean and deviation of the training inputs."""
TEMPERATURE = "temperature"
VOCABULARY = "vocabulary"
COLUMNS = "columns"
