"""A folder of 20,000 images of 256x256 streamed through `ravine train`: peak memory, and cores kept busy.

The images are smooth colour gradients, one hue a class, made for the occasion in a temporary folder. At
256 pixels they would take 3.7 GiB as raw tensors, so that Ravine decodes them as they are needed; with
fewer images (`--images`, for a quick try) `data.memory_gb` is lowered so that they stream all the same.
The network is a narrow `cnn`, one epoch: what is measured is the streaming.

The memory (in GB of 10^9 bytes) is the largest sum of the resident sizes of the command's process and all
its children, sampled every 50 ms over the whole command; the network's own activations are in it. The cores
busy are the processor seconds of the same processes over wall seconds, from the first step to the end of the
epoch, without evaluation; 90 % of all cores are called busy.

    python benchmarks/streaming.py [--images 20000]
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

import running
from running import verdict

SIDE = 256
CLASSES = ("amber", "blue", "green", "red")
COLORS = ((250, 180, 40), (40, 80, 230), (50, 190, 90), (220, 50, 50))
MEMORY_GB = 1.5
BUSY_SHARE = 0.9
SAMPLING_SECONDS = 0.05
IMAGE_BYTES = 3 * SIDE * SIDE


def make_image(folder: Path, number: int) -> None:
    """A gradient in the colour of the image's class, at an angle that the number decides."""
    from PIL import Image

    kind = number % len(CLASSES)
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    angle = number * 2.399963  # the golden angle: no two are alike
    light = 0.75 + 0.25 * (np.cos(angle) * across + np.sin(angle) * down) / np.sqrt(2)
    pixels = (light[:, :, None] * np.array(COLORS[kind])).astype(np.uint8)
    Image.fromarray(pixels).save(folder / CLASSES[kind] / f"{number:06d}.jpg", quality=90)


def make_folder(folder: Path, images: int) -> None:
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(make_image, [folder] * images, range(images), chunksize=200):
            pass


@dataclass(frozen=True)
class Sample:
    """The processes of a command at one moment: seconds, processor seconds, bytes."""

    when: float
    worked: float
    resident: int


class Sampler(threading.Thread):
    """Watches a process and its children until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Sample until there is no such process."""
        try:
            while True:
                self.samples.append(self._sample())
                time.sleep(SAMPLING_SECONDS)
        except psutil.NoSuchProcess:
            return  # it has ended

    def _sample(self) -> Sample:
        times = self.root.cpu_times()
        worked = times.user + times.system + times.children_user + times.children_system
        resident = self.root.memory_info().rss
        for child in self.root.children(recursive=True):
            try:
                times, memory = child.cpu_times(), child.memory_info()
            except psutil.NoSuchProcess:
                continue  # its time is in its parent's `children` from now on
            worked += times.user + times.system
            resident += memory.rss
        return Sample(time.perf_counter(), worked, resident)

    @property
    def peak(self) -> int:
        """The largest sum of resident bytes."""
        return max(sample.resident for sample in self.samples)

    def busy(self, start: float, end: float) -> float:
        """Cores busy on average between two moments."""
        inside = [sample for sample in self.samples if start <= sample.when <= end]
        first, last = inside[0], inside[-1]
        return (last.worked - first.worked) / (last.when - first.when)


def main() -> None:
    parser = running.arguments(__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    settings = ["data.image_size=256", "stop.epochs=1", "model.width=8"]
    settings.append(f"data.memory_gb={min(1.0, options.images * IMAGE_BYTES / 2**31)}")
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "pictures", Path(place) / "run"
        make_folder(folder, options.images)
        command = running.train_command(folder, out, settings + options.settings, "--model", "cnn")
        started = time.perf_counter()
        began = None
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            sampler = Sampler(process.pid)
            sampler.start()
            assert process.stdout is not None
            for line in process.stdout:
                began = began or time.perf_counter()  # the first line is printed when training begins
                print(line, end="", flush=True)
        if process.returncode or began is None:
            raise SystemExit("ravine train failed")
        seconds = time.perf_counter() - started
        sampler.join()
        training = json.loads((out / "result.json").read_text())["timing"]["training"]
    memory, busy = sampler.peak / 1e9, sampler.busy(began, began + training)
    cores = os.cpu_count() or 1
    print(f"{options.images:,} images in {seconds:.0f} s, of which training {training:.0f} s")
    print(f"peak memory  {memory:5.2f} GB      at most {MEMORY_GB} GB   {verdict(memory <= MEMORY_GB)}")
    enough = BUSY_SHARE * cores
    print(f"cores busy   {busy:5.2f} of {cores}    at least {enough:.1f}     {verdict(busy >= enough)}")


if __name__ == "__main__":
    main()
