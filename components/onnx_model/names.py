"""Names in our ONNX files: outputs, nodes and metadata keys. They must not change: older files have them too."""

# Further outputs. The task names the network's own output, and the kind of inputs names the input.
PROBABILITIES = "probabilities"
LABELS = "labels"
INDEX = "index"
"""Number of the likeliest class."""
ANSWERS = (PROBABILITIES, LABELS, INDEX)

# Names within the graph.
PREPARED = "prepared"
"""The network's own input; of images, before it is standardised."""
BEFORE, STANDARDIZE, BEHIND = ("prepare.", "standardize.", "answer.")
"""Name prefixes of the nodes of pre- and postprocessing."""

# Keys of ``metadata_props``.
CLASSES = "labels"
"""JSON list of the names of classes, labels or targets."""
KIND = "kind"
TASK = "task"
SHAPE = "shape"
"""JSON list: shape of one input."""
INPUT, PREPROCESSING, OUTPUT = "input", "preprocessing", "output"
"""Descriptions of the input, its preparation and the output, in words."""
INPUT_STATISTICS = "input_statistics"
"""JSON object: mean and deviation of the training inputs."""
TEMPERATURE = "temperature"
FIELDS = "fields"
"""JSON list: descriptions of the inputs of a model for a task over named fields."""
VOCABULARY = "vocabulary"
COLUMNS = "columns"
RULES = "reading_rules"
"""JSON object: how files become inputs."""
LAYOUT = "layout"
"""Order of the dimensions of images: NHWC, NCHW, or both."""
RESAMPLING = "resampling"
"""Way in which images are brought to the network's size, in words."""
TOKENIZATION = "tokenization"
"""JSON object: how a text becomes tokens."""
FORM = "form"
"""``complete``, or ``bare``: the network alone, whose inputs have to be prepared. Older files are complete."""
BARE, COMPLETE = "bare", "complete"
MEAN, STD = "mean", "std"
"""JSON lists, of a bare model of images: mean and deviation of each channel of pixels scaled to 0…1."""
