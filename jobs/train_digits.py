"""Trains a small neural network on scikit-learn's handwritten digits: a model that reports metrics."""

import time
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from service import model, progress


class Trained(BaseModel):
    """What came of it: accuracy and loss on images that were kept apart."""

    accuracy: float
    loss: float
    epochs: int


@model(timeout=3660)  # the most `epochs` with the longest `pause`, and the training itself
def train_digits(
    epochs: Annotated[int, Field(ge=1, le=500)] = 60,
    hidden: Annotated[int, Field(ge=1, le=1024, description="Units of the hidden layer")] = 64,
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.001,
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
    pause: Annotated[float, Field(ge=0, le=5, description="Seconds to wait after an epoch")] = 0.1,
) -> Trained:
    """Train a network to read handwritten digits (1797 images of 8 x 8), with metrics after each epoch."""
    images, digits = load_digits(return_X_y=True)
    seen, unseen, seen_digits, unseen_digits = train_test_split(
        images / 16, digits, test_size=0.25, random_state=seed, stratify=digits
    )
    network = MLPClassifier(hidden, batch_size=32, learning_rate_init=learning_rate, random_state=seed)
    for epoch in range(1, epochs + 1):
        with threadpool_limits(1, user_api="blas"):  # the matrices are too small for more
            network.partial_fit(seen, seen_digits, classes=np.arange(10))
            guesses = network.predict_proba(unseen)
        accuracy = float(np.mean(guesses.argmax(axis=1) == unseen_digits))
        loss = float(log_loss(unseen_digits, guesses))
        progress.update(epoch / epochs, f"epoch {epoch} of {epochs}", loss=loss, accuracy=accuracy)
        time.sleep(pause)
    return Trained(accuracy=accuracy, loss=loss, epochs=epochs)


if __name__ == "__main__":
    print(train_digits())
