"""Peak resident memory of a quantization by number of images, which come from a generator.

    python benchmarks/memory.py
    python benchmarks/memory.py --images=1000,20000 --memory_budget=256MB --work_dir=/scratch

Each number of images gets a process of its own: the `cnn` for 32x32x3 images, GPFQ, ternary. The images are random,
made batch by batch; memory does not depend on what they show. The table has the largest resident memory (VmHWM) of the
process, and what of it came after TensorFlow, the model and one traced batch were there. Next to it: disk space taken
under --work_dir, which must hold about 0.9 MB an image. Writes memory.{csv,json,md}. About ten minutes on two cores.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from absl import flags
from harness import results

from keras_compress.commands import cli
from keras_compress.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_list("images", ["1000", "5000", "20000"], "Numbers of images; ratios are to the first.")
flags.DEFINE_string("memory_budget", "128MB", "Of kc.quantize.")
flags.DEFINE_integer("batch", 100, "Images in a batch of the generator.", lower_bound=1)
flags.DEFINE_string("work_dir", None, "Where activations go that do not fit. Default: the system's temporary folder.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")
flags.DEFINE_integer("only", None, "Measure this number of images in this process and print JSON.", lower_bound=1)

INTERVAL = 0.2  # seconds between two looks at the disk


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    if FLAGS.only is not None:
        cli.import_tensorflow()
        print(json.dumps(measured(FLAGS.only)))
        return
    try:
        counts = [int(text) for text in FLAGS.images]
    except ValueError:
        raise InputError(f"--images takes whole numbers. Received: {','.join(FLAGS.images)}.") from None
    machine = results.machine()
    rows: list[dict[str, Any]] = []
    for count in counts:
        row = {"images": count} | in_a_process(count)
        rows.append(row | {"ratio": row["peak MB"] / (rows[0] if rows else row)["peak MB"]})
        print(results.markdown(rows[-1:]).splitlines()[-1], flush=True)
    path = results.write(
        FLAGS.results_dir,
        "memory",
        f"Peak memory of kc.quantize, memory_budget={FLAGS.memory_budget}",
        {"by number of images": rows},
        machine=machine,
        settings={"memory_budget": FLAGS.memory_budget, "batch": FLAGS.batch},
        notes=[
            "peak: VmHWM of a process that quantizes the cnn with ternary GPFQ, 10^6 bytes, TensorFlow included; ratio "
            "to the first row.",
            "added: the peak less what was resident before, with TensorFlow loaded and one batch quantized.",
        ],
    )
    print(path.read_text())


def in_a_process(count: int) -> dict[str, Any]:
    """What this script prints with --only."""
    command = [sys.executable, __file__, f"--only={count}", f"--memory_budget={FLAGS.memory_budget}"]
    command += [f"--batch={FLAGS.batch}"] + ([f"--work_dir={FLAGS.work_dir}"] if FLAGS.work_dir else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"The process that quantizes with {count:,} images ended with exit code {done.returncode}.")
    return json.loads(done.stdout)


def measured(count: int) -> dict[str, Any]:
    """Quantizes with `count` images and returns what that took."""
    import tempfile

    import keras_compress as kc
    from keras_compress import zoo
    from keras_compress.sweep.memory import peak_bytes, reset_peak

    model = zoo.build_architecture("cnn", (32, 32, 3), 10)
    quantizer = kc.GPFQ(alphabet=kc.Integer(levels=3))
    kc.quantize(model, quantizer, random_batches(FLAGS.batch), memory_budget=FLAGS.memory_budget)
    before = resident_bytes()
    reset_peak()
    with tempfile.TemporaryDirectory(dir=FLAGS.work_dir) as folder, DiskUse(folder) as disk:
        result = kc.quantize(
            model, quantizer, random_batches(count), memory_budget=FLAGS.memory_budget, work_dir=folder
        )
    peak = peak_bytes()
    return {
        "peak MB": round(peak / 1e6, 1),
        "before MB": round(before / 1e6, 1),
        "added MB": round((peak - before) / 1e6, 1),
        "disk MB": round(disk.largest / 1e6, 1),
        "seconds": round(result.report.steps[-1].figures["seconds"], 1),
    }


def random_batches(count: int) -> Iterator[Any]:
    """Batches of random images, `count` in all."""
    import numpy as np

    rng = np.random.default_rng(0)
    for start in range(0, count, FLAGS.batch):
        yield rng.random((min(FLAGS.batch, count - start), 32, 32, 3), dtype=np.float32)


def resident_bytes() -> int:
    """Resident memory of this process now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


class DiskUse:
    """Watches how much a folder holds while the block runs."""

    def __init__(self, folder: str):
        self.folder = folder
        self.largest = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "DiskUse":
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        import pathlib

        while not self._ended.wait(INTERVAL):
            total = 0
            for path in pathlib.Path(self.folder).rglob("*"):
                try:
                    total += path.stat().st_blocks * 512
                except OSError:  # it is gone already
                    continue
            self.largest = max(self.largest, total)


if __name__ == "__main__":
    cli.run(main)
