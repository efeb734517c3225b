"""Run folders as a training leaves them, made up: what the tests of `ravine.show` look at."""

import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file

RECIPE = """\
# A classifier of small pictures.
seed = 0
precision = "float32"

[data]
batch_size = 64

[model]
name = "cnn"

[optimizer]
name = "adamw"
lr = 0.002

[stop]
epochs = 40
monitor = "validation.loss"
"""
ENVIRONMENT = {
    "ravine": "0.1.0",
    "python": "3.11.9",
    "torch": "2.13.0",
    "device": "cpu",
    "threads": 2,
    "command": ["ravine", "train", "digits"],
    "data": "/home/someone/set-a",
}
LAYERS = ("body.0.weight", "body.0.bias", "body.3.weight", "body.3.bias", "head.weight", "head.bias")


def rows(epochs: int, metrics: dict, start: float = 2.3, floor: float = 0.05, steps: int = 18) -> list[dict]:
    """Evaluations of a run that overfits a little after three quarters; `metrics`: name → (first, last)."""
    noise = numpy.random.default_rng(0)
    made = []
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        fall = numpy.exp(-5 * done)
        train = floor * 0.4 + (start - floor * 0.4) * fall
        validation = floor + (start - floor) * fall * 1.05 + max(0.0, done - 0.75) * floor
        row = {"epoch": epoch, "step": epoch * steps, "seconds": 0.3 * epoch, "samples_per_second": 9600.0}
        row["lr"] = 0.002 * 0.5 * (1 + numpy.cos(numpy.pi * done))
        row["train.loss"] = float(train * noise.normal(1, 0.02))
        row["validation.loss"] = float(validation * noise.normal(1, 0.03))
        for name, (first, last) in metrics.items():
            for part, worse in (("train", 0.0), ("validation", 0.1)):
                row[f"{part}.{name}"] = float(
                    last + (first - last) * min(1.0, fall * noise.normal(1, 0.05) + 0.02 * worse)
                )
        row["gradient_norm"] = float(2 * fall + 0.1 * noise.random())
        ratios = {
            layer: float(3e-3 * (1.1 - done) * noise.lognormal(0, 0.2) / (1 + at))
            for at, layer in enumerate(LAYERS)
        }
        row["update_ratios"] = ratios
        row["update_ratio"] = float(numpy.median(list(ratios.values())))
        made.append(row)
    return made


def around(value: float) -> dict:
    """The loss (1 − t)³ + value − 1 of a step t, and its models at t = 0; the last step was not finite."""
    steps = [-0.25, 0.0, 0.25, 0.5, 0.75]
    return {
        "direction": "negative gradient",
        "value": value,
        "slope": -3.0,
        "curvature": 6.0,
        "steps": steps,
        "values": [*((1 - step) ** 3 + value - 1 for step in steps[:-1]), None],
        "linear": [value - 3 * step for step in steps],
        "quadratic": [value - 3 * step + 3 * step**2 for step in steps],
        "best_step": 0.5,
        "lowest": value - 0.75,
        "items": 128,
    }


def _result(made: list[dict], **more) -> dict:
    best = min(made, key=lambda row: row["validation.loss"])
    last = made[-1]
    return {
        "parameters": 35_000,
        "epochs": last["epoch"],
        "steps": last["step"],
        "seconds": last["seconds"] + 2.3,
        "best_epoch": best["epoch"],
        "monitor": "validation.loss",
        "stopped": f"reached {last['epoch']} epochs",
        "items": {"train": 1150, "validation": 287, "test": 360},
        "timing": {"training": 9.1, "evaluation": 0.9, "checkpoints": 0.4, "start": 1.9},
        "noticed": [
            {"level": "info", "text": "the first loss is 2.31; chance gives 2.30"},
            {"level": "warning", "text": "12 of 64 units of body.3 never respond: lower the learning rate"},
        ],
    } | more


def _write(folder: Path, made: list[dict], result: dict | None, predictions: dict, **preprocessing) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "preprocessing.json").write_text(json.dumps(preprocessing))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    if predictions:
        save_file(predictions, folder / "predictions.safetensors")
    return folder


def logits_of(targets: numpy.ndarray, classes: int, sure: float = 7.0) -> numpy.ndarray:
    noise = numpy.random.default_rng(1)
    logits = noise.normal(0, 2.0, (len(targets), classes)).astype(numpy.float32)
    logits[numpy.arange(len(targets)), targets] += sure
    return logits


def classification(
    folder: Path, classes: list[str] | None = None, pictures: str = "grey", items: int = 360
) -> Path:
    """An image classifier; `pictures`: "grey" (the embedded digits), "colour", or "none" for a table."""
    classes = classes or [str(digit) for digit in range(10)]
    made = rows(40, {"accuracy": (0.1, 0.995)})
    noise = numpy.random.default_rng(2)
    predictions = {}
    for part, count in (("validation", items - 73), ("test", items)):
        targets = noise.integers(0, len(classes), count)
        predictions |= {f"{part}.targets": targets, f"{part}.outputs": logits_of(targets, len(classes))}
    if pictures != "none":
        predictions |= _worst(pictures, len(classes), noise)
    kind = "table" if pictures == "none" else "image"
    scores = {
        "loss": 0.07,
        "loss_interval": [0.04, 0.1],
        "accuracy": 0.981,
        "accuracy_interval": [0.964, 0.992],
    }
    result = _result(
        made,
        data="digits",
        kind=kind,
        task="classification",
        classes=classes,
        model="cnn",
        baseline={"accuracy": 0.101, "loss": 2.303},
        train={"loss": 0.01, "accuracy": 0.999},
        validation=scores | {"loss": 0.06},
        test=scores,
    )
    _write(folder, made, result, predictions, kind=kind, task="classification", classes=classes)
    for which, value in (("first", 2.3), ("best", 0.02)):
        (folder / f"local_model.{which}.json").write_text(json.dumps(around(value)))
    return folder


def _worst(pictures: str, classes: int, noise: numpy.random.Generator) -> dict:
    from sklearn.datasets import load_digits

    grey = (load_digits().images[:24] / 16 * 255).astype(numpy.uint8)
    images = (
        grey[:, None] if pictures == "grey" else noise.integers(0, 255, (24, 3, 96, 64), dtype=numpy.uint8)
    )
    targets = numpy.arange(24) % classes
    return {
        "worst.images": images,
        "worst.targets": targets,
        "worst.predictions": (targets + 3) % classes,
        "worst.probabilities": numpy.linspace(0.99, 0.4, 24).astype(numpy.float32),
    }


def regression(folder: Path) -> Path:
    made = rows(120, {"rmse": (160.0, 54.0), "mae": (140.0, 43.0), "r2": (-1.0, 0.5)}, start=4.0, floor=0.5)
    noise = numpy.random.default_rng(3)
    predictions = {}
    for part, count in (("validation", 71), ("test", 89)):
        targets = noise.normal(150, 77, count).astype(numpy.float32)
        guesses = 150 + 0.6 * (targets - 150) + noise.normal(0, 40, count)
        predictions |= {f"{part}.targets": targets, f"{part}.outputs": guesses.astype(numpy.float32)}
    scores = {
        "loss": 0.48,
        "rmse": 53.2,
        "rmse_interval": [46.9, 59.3],
        "mae": 42.9,
        "mae_interval": [37.0, 49.1],
    }
    scores |= {"r2": 0.52, "r2_interval": [0.4, 0.61]}
    result = _result(
        made,
        data="diabetes",
        kind="table",
        task="regression",
        model="mlp",
        baseline={"rmse": 77.0, "mae": 65.8, "r2": 0.0, "loss": 1.0},
        train={"loss": 0.44, "rmse": 51.0, "mae": 41.0, "r2": 0.56},
        validation=scores,
        test=scores,
        noticed=[],
        stopped="no better validation.loss for 20 evaluations",
    )
    return _write(
        folder, made, result, predictions, kind="table", task="regression", target_name="disease progression"
    )


def language(folder: Path) -> Path:
    made = rows(30, {"accuracy": (0.02, 0.55), "bits": (6.0, 2.2)}, start=4.2, floor=1.5)
    positions = (1.5 + 1.8 / (1 + numpy.arange(128))).astype(numpy.float32)
    scores = {
        "loss": 1.55,
        "loss_interval": [1.53, 1.57],
        "bits": 2.24,
        "bits_interval": [2.21, 2.27],
        "accuracy": 0.54,
    }
    result = _result(
        made,
        data="tinyshakespeare",
        kind="text",
        task="language",
        classes=list("\n !'abcdefghij"),
        model="transformer",
        parameters=812_000,
        items={"train": 1_003_854, "validation": 55_770, "test": 55_770},
        baseline={"bits": 4.79, "loss": 3.32, "accuracy": 0.15},
        train={"loss": 1.4, "bits": 2.02, "accuracy": 0.57},
        validation=scores,
        test=scores,
        sample="ROMEO:\nWhat say'st thou, <love>? The night is come,\nAnd I must to the tower & away.\n" * 3,
    )
    return _write(folder, made, result, {"test.loss_by_position": positions}, kind="text", task="language")


def interrupted(folder: Path) -> Path:
    """A run that was killed while it wrote its thirteenth evaluation."""
    made = rows(40, {"accuracy": (0.1, 0.995)})[:12]
    _write(
        folder,
        made,
        None,
        {},
        kind="image",
        task="classification",
        classes=[str(digit) for digit in range(10)],
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 13, "step": 2')
    return folder
