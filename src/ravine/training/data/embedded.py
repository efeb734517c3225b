"""Real data sets that come with scikit-learn: nothing to download."""

from typing import Any, Literal

import numpy as np
import torch

from ...registry import register
from .dataset import Column, Dataset
from .options import DataOptions

NAMES = ("digits", "wine", "breast_cancer", "diabetes")


@register("data", "digits", "1,797 grey images 8×8 of handwritten digits, 10 classes (scikit-learn)")
def digits(options: DataOptions) -> Dataset:
    """The optical digits; their values 0 to 16 become bytes 0 to 255."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return Dataset(
        name="digits",
        kind="image",
        task="classification",
        inputs=torch.from_numpy(pixels).unsqueeze(1),
        targets=torch.from_numpy(bunch.target.astype(np.int64)),
        parts={"train": torch.arange(len(pixels))},
        classes=tuple(map(str, bunch.target_names)),
        target_name="digit",
        options={"reader": "embedded"},
    )


@register("data", "wine", "178 wines, 13 measurements, 3 cultivars (scikit-learn)")
def wine(options: DataOptions) -> Dataset:
    """The wine recognition table."""
    from sklearn.datasets import load_wine

    return _table("wine", load_wine(), "classification", "cultivar")


@register("data", "breast_cancer", "569 tumours, 30 measurements, malignant or benign (scikit-learn)")
def breast_cancer(options: DataOptions) -> Dataset:
    """The Wisconsin diagnostic table."""
    from sklearn.datasets import load_breast_cancer

    return _table("breast_cancer", load_breast_cancer(), "classification", "diagnosis")


@register("data", "diabetes", "442 patients, 10 measurements, progression after a year (scikit-learn)")
def diabetes(options: DataOptions) -> Dataset:
    """The diabetes table: a regression."""
    from sklearn.datasets import load_diabetes

    return _table("diabetes", load_diabetes(), "regression", "progression")


def _table(name: str, bunch: Any, task: Literal["classification", "regression"], target: str) -> Dataset:
    classes = tuple(map(str, bunch.target_names)) if task == "classification" else ()
    return Dataset(
        name=name,
        kind="table",
        task=task,
        inputs=torch.from_numpy(bunch.data.astype(np.float32)),
        targets=torch.from_numpy(bunch.target.astype(np.int64 if classes else np.float32)),
        parts={"train": torch.arange(len(bunch.data))},
        classes=classes,
        columns=tuple(Column(column) for column in bunch.feature_names),
        target_name=target,
        options={"reader": "embedded"},
    )
