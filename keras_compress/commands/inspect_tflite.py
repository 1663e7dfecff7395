"""Shows what is in a TFLite file: tensors, types, bits, operators, and where the bytes are.

    python quantize/inspect_tflite.py digits_w4.tflite
    python quantize/inspect_tflite.py digits_w4.tflite --picture=digits_w4.png

FILE is any TFLite file, not only one of ours. It is read as data and not run; neither TensorFlow nor Keras is loaded.
"""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from keras_compress.commands import cli
from keras_compress.errors import InputError

if TYPE_CHECKING:
    from keras_compress.measurement.inspection import Inspection

FLAGS = flags.FLAGS

flags.DEFINE_string("picture", None, "Draw where the bytes are into this .png, .pdf or .svg file.")

COLORS = {
    "FLOAT32": "#999999", "FLOAT16": "#56B4E9", "INT8": "#0072B2", "INT4": "#009E73", "INT2": "#E69F00",
    "INT32": "#CC79A7", "scales": "#F0E442", "graph": "#D55E00",
}  # fmt: skip
OTHER = "#000000"
LARGEST = 14  # tensors with a bar of their own


def main(argv: list[str]) -> None:
    path = pathlib.Path(cli.take_arguments(argv, "file")[0])
    if FLAGS.picture is not None and pathlib.Path(FLAGS.picture).suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--picture takes the name of a .png, .pdf or .svg file. Received: {FLAGS.picture!r}.")
    from keras_compress.measurement.inspection import inspect_tflite

    inspection = inspect_tflite(path)
    print(inspection)
    if FLAGS.picture is not None:
        draw(inspection, pathlib.Path(FLAGS.picture))
        print(f"picture: {FLAGS.picture}")


def draw(inspection: "Inspection", path: pathlib.Path) -> None:
    """A bar for each of the largest tensors, for the others together, for scales and for the graph."""
    from matplotlib.figure import Figure

    from keras_compress.files import replacing

    tensors = [tensor for tensor in inspection.tensors if tensor.bytes]
    bars = [(tensor.name or "(no name)", tensor.type, tensor.bytes) for tensor in tensors[:LARGEST]]
    rest = sum(tensor.bytes for tensor in tensors[LARGEST:])
    if rest:
        bars.append((f"{len(tensors) - LARGEST} smaller tensors", "", rest))
    parts = inspection.parts
    bars += [(name, name, parts[name]) for name in ("scales", "graph") if parts.get(name)]
    figure = Figure(figsize=(9, 0.3 * len(bars) + 1.4), layout="constrained")
    axes = figure.subplots()
    largest = max(size for _, _, size in bars) / 1000
    for row, (_, kind, size) in enumerate(bars):
        axes.barh(row, size / 1000, color=COLORS.get(kind, OTHER))
        axes.text(size / 1000 + 0.01 * largest, row, f"{size / inspection.bytes:.1%}", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name if len(name) < 45 else f"…{name[-43:]}" for name, _, _ in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * largest)
    axes.set_xlabel("kB")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    kinds = dict.fromkeys(kind for _, kind, _ in bars if kind not in ("", "scales", "graph"))
    handles = [axes.barh([0], [0], color=COLORS.get(kind, OTHER)) for kind in kinds]
    axes.legend(handles, kinds, loc="lower right", frameon=False, fontsize=8)
    axes.set_title(f"{inspection.name}: {inspection.bytes:,} bytes, gzipped {inspection.gzipped_bytes:,}", fontsize=10)
    with replacing(path) as part:
        figure.savefig(part, dpi=120)
