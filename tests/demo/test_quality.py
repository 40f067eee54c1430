import numpy as np
import pytest
import torch

from graphopt.demo.classifier import ClassifierConfig, DigitClassifier
from graphopt.demo.diffusion import SamplingConfig
from graphopt.demo.digits import LabelledImages, load_digits
from graphopt.demo.model import DiT, DiTConfig
from graphopt.demo.quality import Judge, Matrix, frechet_distance


def normal(mean: Matrix, covariance: Matrix, count: int = 50, seed: int = 0) -> Matrix:
    """Points whose mean and covariance are exactly these."""
    points = np.random.default_rng(seed).normal(size=(count, len(mean)))
    points -= points.mean(axis=0)
    whitened = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_distance_of_a_set_to_itself_is_zero() -> None:
    points = normal(np.array([1.0, -2.0, 3.0]), np.diag([1.0, 4.0, 0.25]))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


def test_distance_of_normals_with_parallel_axes() -> None:
    first = normal(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), seed=1)
    second = normal(np.array([2.0, 1.0, 1.0]), np.diag([4.0, 1.0, 0.25]), count=80, seed=2)
    wanted = (4 + 0 + 1) + (1 - 2) ** 2 + (2 - 1) ** 2 + (3 - 0.5) ** 2
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-9)


def test_distance_of_normals_with_crossing_axes() -> None:
    one, other = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[4.0, -1.0], [-1.0, 1.0]])
    product = one @ other
    # The trace of the root of a 2x2 matrix is the root of trace + 2 √determinant.
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = np.trace(one) + np.trace(other) - 2 * cross
    origin = np.zeros(2)
    found = frechet_distance(normal(origin, one, seed=3), normal(origin, other, seed=4))
    assert found == pytest.approx(wanted, rel=1e-9)


def test_distance_is_symmetric_and_holds_for_degenerate_sets() -> None:
    first = normal(np.zeros(3), np.eye(3), seed=5)
    second = first * np.array([1.0, 0.0, 2.0])
    wanted = 0 + 1 + (2 - 1) ** 2
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(wanted, rel=1e-6)


def test_distance_in_one_dimension() -> None:
    first, second = np.array([[0.0], [2.0]]), np.array([[3.0], [7.0]])
    assert frechet_distance(first, second) == pytest.approx((5 - 1) ** 2 + (8**0.5 - 2**0.5) ** 2)


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(DigitClassifier(ClassifierConfig(width=4, features=8)).eval(), load_digits(held_out=100).held_out)


def test_real_digits_are_at_no_distance_from_themselves(judge: Judge) -> None:
    score = judge.score(judge.held_out)
    assert score["frechet"] == pytest.approx(0, abs=1e-6)
    assert judge.score(LabelledImages(-judge.held_out.images, judge.held_out.labels))["frechet"] > 1e-3


def test_score_of_a_model(judge: Judge) -> None:
    model = DiT(DiTConfig(width=8, depth=1, heads=1)).eval()
    scores = judge.score_model(model, SamplingConfig(count=20, steps=2, seeds=(0, 1)))
    assert sorted(scores) == ["accuracy", "frechet", "loss"]
    # A fresh model predicts zero, so that its loss is the mean square of image and noise: about one.
    assert scores["loss"].mean == pytest.approx(1.0, abs=0.25)
    assert scores["loss"].mean == judge.held_out_loss(model)
    assert scores["accuracy"].deviation is not None
