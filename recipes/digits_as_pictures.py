"""Write scikit-learn's digits as an image folder, few for training: python recipes/digits_as_pictures.py FOLDER.

FOLDER/train/CLASS and FOLDER/val/CLASS hold 10 pictures of each class, FOLDER/test/CLASS the rest. A picture has 28×28
pixels, white on black.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

PICTURES_PER_CLASS = 10
"""Pictures of each class for training, and as many for validation."""


def main(folder: Path) -> None:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    seen = dict.fromkeys(range(10), 0)
    for number in order:
        label = int(labels[number])
        split = (
            "train" if seen[label] < PICTURES_PER_CLASS else "val" if seen[label] < 2 * PICTURES_PER_CLASS else "test"
        )
        seen[label] += 1
        place = folder / split / str(label)
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray((pixels[number].reshape(8, 8) * 15.9375).astype(np.uint8))
        # Like MNIST: 20 pixels high, centered in 28.
        picture = Image.new("L", (28, 28))
        picture.paste(small.resize((20, 20), Image.Resampling.BICUBIC), (4, 4))
        picture.save(place / f"{number:04d}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
