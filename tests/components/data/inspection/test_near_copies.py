"""Near copies are found with the stated recall, by a number of comparisons that grows no faster than the data."""

import numpy as np
import pytest
from scipy.stats import binom

from tests.components.data.inspection.test_inspect import inspected
from torchmill.components.data.inspection.near_copies import RECALL, CopySearch, Projection, affordable, compare_images

CLASSES, SIDE = 10, 28


def tight_classes(samples: int, noise: int = 20, seed: int = 0) -> np.ndarray:
    """Images (N, 1, 28, 28): one prototype for each class, with a little noise."""
    prototypes = np.random.default_rng(99).integers(0, 200, (CLASSES, 1, SIDE, SIDE))
    noises = np.random.default_rng(seed).integers(0, noise, (samples, 1, SIDE, SIDE))
    return (prototypes[np.arange(samples) % CLASSES] + noises).astype(np.uint8)


class Vectors:
    """Descriptions of ten tight classes: unit vectors (N, 784), and a comparison that counts its pairs."""

    def __init__(self, references: int, queries: int):
        self.rng = np.random.default_rng(0)
        self.prototypes = self.rng.standard_normal((CLASSES, SIDE * SIDE))
        self.references, self.queries = self.drawn(references), self.drawn(queries)
        self.compared = 0

    def drawn(self, count: int) -> np.ndarray:
        noise = self.rng.standard_normal((count, SIDE * SIDE))
        return unit(self.prototypes[np.arange(count) % CLASSES] + 0.1 * noise)

    def plant(self, count: int, likeness: float) -> None:
        """Replace the first queries by vectors of that likeness to the first references."""
        first = self.references[:count].astype(np.float64)
        other = self.rng.standard_normal(first.shape)
        other = unit(other - (other * first).sum(1, keepdims=True) * first)
        self.queries[:count] = unit(likeness * first + (1 - likeness**2) ** 0.5 * other)

    def compare(self, queries: np.ndarray, references: np.ndarray) -> np.ndarray:
        self.compared += len(queries)
        return np.einsum("ij,ij->i", self.queries[queries], self.references[references])

    def search(self) -> CopySearch:
        projection = Projection.of(self.references[:2048])
        return CopySearch(projection, projection(self.queries), projection(self.references), self.compare, SIDE * SIDE)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_few_pairs_of_a_tight_class_are_compared_pixel_by_pixel():
    for samples in (1000, 4000):
        vectors = Vectors(samples, samples // 4)
        search = vectors.search()
        before = vectors.compared
        assert search.find(np.arange(samples // 4)) == {}
        assert vectors.compared - before <= samples / 4  # a pair of one class in ten would be 6 and 100 times as many


def test_near_copies_at_the_largest_distance_are_found_with_the_stated_recall():
    vectors, planted = Vectors(8000, 8000), 2000
    usual = vectors.search().likeness
    vectors.plant(planted, usual + 1e-5)
    search = vectors.search()
    assert search.likeness == pytest.approx(usual, abs=5e-6)
    copies = search.find(np.arange(len(vectors.queries)))
    assert set(copies) <= set(range(planted))
    assert all(row == query for query, (row, _) in copies.items())
    assert len(copies) >= binom.ppf(0.001, planted, RECALL)


@pytest.mark.parametrize("most_work", [2e5, 1e6])
def test_a_sample_stays_below_the_work_and_finds_the_stated_share(most_work):
    vectors, planted = Vectors(4000, 2000), 600
    vectors.plant(planted, 0.9999)
    search = vectors.search()
    chosen = affordable([search], 2000, most_work)
    assert 10 < len(chosen) < 2000 and search.work(chosen) <= most_work
    assert search.work(np.arange(min(2000, 2 * len(chosen)))) > most_work / 2  # no smaller than it must be
    power = RECALL * len(chosen) / 2000
    low, high = binom.ppf([0.001, 0.999], planted, power)
    assert low <= len(search.find(chosen)) <= high


def test_the_work_of_a_search_grows_no_faster_than_the_samples():
    counts = [len(affordable([Vectors(samples, samples // 4).search()], samples // 4, 1e5)) for samples in (2000, 8000)]
    assert counts[1] <= counts[0] * 1.1


def test_small_images_are_compared_in_all_directions():
    assert Projection.of(np.eye(64, dtype=np.float32)[:40]).slack == 1
    images = tight_classes(40)[:, :, :4, :4]
    projection = Projection.of(np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32))
    points = projection.project(images)
    search = CopySearch(projection, points[:5], points[5:], compare_images(images[:5], images[5:]), 16)
    assert projection.slack == 1 and search.find(np.arange(5)) == {}


def test_equal_images_are_found_even_if_few_images_can_be_searched_for_near_copies(tmp_path):
    train, test = tight_classes(6000, noise=4), tight_classes(1200, noise=4, seed=1)
    equal = np.arange(7, 1200, 100)
    test[equal] = train[5 * equal]
    labels = np.arange(6000) % CLASSES
    findings = inspected(tmp_path, train=train, train_labels=labels, test=test, test_labels=np.arange(1200) % CLASSES)
    assert sum(count for pair, count in findings.equal_across.items() if pair.endswith("test")) == len(equal)
    assert findings.power == pytest.approx(RECALL * findings.compared / 1200)
    assert findings.power < 0.98
    assert any(f"{findings.compared:,} of 1,200 test samples" in line for line in findings.lines())
