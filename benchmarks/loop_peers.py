"""The loops that Ravine's is measured against: one network and one set of items, trained in each one's way.

Each takes a `Task` and gives the seconds from the first step to the last, and the steps. All those on
torch's optimizers take its fused Adam, so that they differ in nothing but the loop.
"""

import logging
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

EVALUATION_BATCH = 512
Taken = tuple[float, int]


@dataclass(frozen=True)
class Task:
    """What every contender is given: an untrained classifier, two parts as (inputs, targets), how long."""

    model: nn.Sequential
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    batch_size: int
    lr: float
    epochs: int

    @property
    def steps(self) -> int:
        """Steps in all epochs."""
        return self.epochs * -(-len(self.train[0]) // self.batch_size)

    def optimizer(self) -> torch.optim.Optimizer:
        """The same Adam for all."""
        return torch.optim.Adam(self.model.parameters(), lr=self.lr, fused=True)

    def loader(self) -> DataLoader[Any]:
        """The training part as most people batch it."""
        return DataLoader(TensorDataset(*self.train), batch_size=self.batch_size, shuffle=True)


class Times:
    """When training began and ended, for the callbacks of others."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def begin(self, *_: object, **__: object) -> None:
        """Training begins, whatever else the caller tells."""
        self.began = time.perf_counter()

    def end(self, *_: object, **__: object) -> None:
        """Training has ended."""
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Between the two."""
        return self.ended - self.began


def shortest_loop(task: Task) -> Taken:
    """Whole-tensor batches and the fused Adam; nothing is recorded, nothing evaluated."""
    (inputs, targets), model, optimizer = task.train, task.model, task.optimizer()
    started = time.perf_counter()
    for _ in range(task.epochs):
        for batch in torch.randperm(len(inputs)).split(task.batch_size):
            loss = functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started, task.steps


def loader_loop(task: Task) -> Taken:
    """The same with a DataLoader over a TensorDataset."""
    loader, model, optimizer = task.loader(), task.model, task.optimizer()
    started = time.perf_counter()
    for _ in range(task.epochs):
        for inputs, targets in loader:
            loss = functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started, task.steps


def lightning_loop(task: Task) -> Taken:
    """Lightning's Trainer: its default logger and checkpoints, validation every epoch, no progress bar."""
    import lightning

    times = Times()

    class Module(lightning.LightningModule):
        """A classifier as Lightning's own examples write it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = task.model

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss = functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            outputs = self.model(batch[0])
            self.log("validation_loss", functional.cross_entropy(outputs, batch[1]))
            self.log("validation_accuracy", (outputs.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer()

    callback = lightning.pytorch.callbacks.LambdaCallback(on_train_start=times.begin, on_train_end=times.end)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to use workers, which would be slower here
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=task.epochs,
            default_root_dir=place,
            callbacks=[callback],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        judged = DataLoader(TensorDataset(*task.validation), batch_size=EVALUATION_BATCH)
        trainer.fit(Module(), task.loader(), judged)
    return times.seconds, trainer.global_step


def skorch_loop(task: Task) -> Taken:
    """A NeuralNetClassifier of skorch: its default callbacks and its Checkpoint, validation every epoch."""
    import skorch
    from skorch.callbacks import Callback, Checkpoint
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    times = Times()

    class Timing(Callback):
        """The first and the last step."""

        on_train_begin = staticmethod(times.begin)
        on_train_end = staticmethod(times.end)

    inputs, targets = (part.numpy() for part in task.train)
    judged_inputs, judged_targets = (part.numpy() for part in task.validation)
    with TemporaryDirectory() as place:
        net = skorch.NeuralNetClassifier(
            task.model,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            optimizer__fused=True,
            lr=task.lr,
            max_epochs=task.epochs,
            batch_size=task.batch_size,
            iterator_train__shuffle=True,
            iterator_valid__batch_size=EVALUATION_BATCH,
            train_split=predefined_split(Dataset(judged_inputs, judged_targets)),
            callbacks=[Checkpoint(dirname=str(Path(place) / "checkpoints")), Timing()],
            verbose=0,
        )
        net.fit(inputs, targets)
    return times.seconds, sum(epoch["train_batch_count"] for epoch in net.history)


def keras_loop(task: Task) -> Taken:
    """Keras' `fit` on the torch backend: accuracy, validation and a CSV log every epoch, checkpoints."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    times = Times()
    linear = [layer for layer in task.model.modules() if isinstance(layer, nn.Linear)]
    model = keras.Sequential(
        [
            keras.Input(tuple(task.train[0].shape[1:])),
            keras.layers.Flatten(),
            *(keras.layers.Dense(layer.out_features, activation="relu") for layer in linear[:-1]),
            keras.layers.Dense(linear[-1].out_features),
        ]
    )
    with keras.device("cpu"), TemporaryDirectory() as place:
        model.compile(
            optimizer=keras.optimizers.Adam(task.lr),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        model.fit(
            *(part.numpy() for part in task.train),
            batch_size=task.batch_size,
            epochs=task.epochs,
            validation_data=tuple(part.numpy() for part in task.validation),
            validation_batch_size=EVALUATION_BATCH,
            callbacks=[
                keras.callbacks.CSVLogger(str(Path(place) / "log.csv")),
                keras.callbacks.ModelCheckpoint(str(Path(place) / "best.keras"), save_best_only=True),
                keras.callbacks.LambdaCallback(on_train_begin=times.begin, on_train_end=times.end),
            ],
            verbose=0,
        )
    return times.seconds, int(model.optimizer.iterations)
