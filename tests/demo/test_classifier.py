import pytest
import torch

from graphopt.demo.classifier import ClassifierConfig, DigitClassifier, accuracy, train_classifier
from graphopt.demo.digits import Digits, LabelledImages, load_digits

CONFIG = ClassifierConfig(width=8, features=32, epochs=6, learning_rate=4e-3)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


def test_shapes() -> None:
    model = DigitClassifier(CONFIG)
    images = torch.randn(3, 1, 8, 8)
    assert model(images).shape == (3, 10)
    assert model.features(images).shape == (3, 32)
    assert float(model.features(images).detach().min()) >= 0


def test_it_learns_and_repeats_itself(digits: Digits) -> None:
    first, again = (train_classifier(digits.train, CONFIG) for _ in range(2))
    assert accuracy(first, digits.held_out) > 0.9
    assert torch.equal(first.out.weight, again.out.weight)


def test_training_leaves_the_global_generator_alone(digits: Digits) -> None:
    before = torch.get_rng_state()
    few = LabelledImages(digits.train.images[:64], digits.train.labels[:64])
    train_classifier(few, CONFIG)
    assert torch.equal(torch.get_rng_state(), before)


def test_accuracy_is_the_share_of_right_answers() -> None:
    images = torch.eye(10)[:4].view(4, 1, 1, 10)
    data = LabelledImages(images, torch.tensor([0, 1, 2, 9]))
    assert accuracy(torch.nn.Flatten(), data) == 0.75
