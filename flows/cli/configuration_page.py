"""docs/configuration.md: all settings of a run, from the configuration's own fields.

``python -m torchmill.flows.cli.configuration_page`` writes it.
"""

import json
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from torchmill.components import config as configuration

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
WIDTH = 100
INTRODUCTION = """\
# Configuration

<!-- Generated: python -m torchmill.flows.cli.configuration_page -->

Every setting of a run, with its default. `torchmill train --help-all` prints the same list.
A setting can be given in three ways. Options override the file.

```bash
torchmill train --data mnist --train.epochs 3 --model mlp --model.args.dropout 0.2
torchmill train --config run.yaml --train.lr 0.002
```

```yaml
# run.yaml
data: mnist
model:
  name: mlp
  args: {dropout: 0.2}
train:
  epochs: 3
```

```python
from torchmill import RunConfig

model = {"name": "mlp", "args": {"dropout": 0.2}}
config = RunConfig(data="mnist", model=model, train={"epochs": 3})
```

Hyphens and underscores are the same in options: `--train.batch-size` is `--train.batch_size`.
The plain name of a section is its `name`: `--data mnist` is `--data.name mnist`.
An unknown key or value stops the command with exit code 2 before anything runs."""
GENERAL = "run"
"""Heading of the settings that belong to no section."""


def page() -> str:
    """Return the page as Markdown."""
    blocks, section = [INTRODUCTION], ""
    for name, (annotation, text, default) in configuration.fields().items():
        heading = name.rpartition(".")[0] or GENERAL
        if heading != section:
            section = heading
            blocks.append(f"## {section}\n")
        blocks.append(_item(name, annotation, text, default))
    lines = "\n".join(blocks).replace("\n## ", "\n\n## ")
    return lines + "\n"


def _item(name: str, annotation: Any, text: str, default: Any) -> str:
    choices = f" One of {', '.join(map(str, get_args(annotation)))}." if get_origin(annotation) is Literal else ""
    described = f"**`{name}`** = `{_shown(default)}`: {text.rstrip('.')}.{choices}"
    return textwrap.fill(
        described, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _shown(default: Any) -> str:
    """Write a default as it stands in a YAML file."""
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    if default is None:
        return "none"
    return default if isinstance(default, str) and default else json.dumps(default)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
