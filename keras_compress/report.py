"""What happened to a model: one report, which a person prints, a program loads and a plot uses."""

import dataclasses
import html
import math
from typing import Any

from keras_compress.errors import InputError
from keras_compress.text import aligned


@dataclasses.dataclass
class LayerRow:
    """What one technique did to one layer. `None` stands for "does not apply" or "not measured"."""

    path: str
    kind: str  # class of the layer
    action: str  # "quantized", "float", "folded", "kept", ...
    reason: str = ""  # why a layer was left as it was
    parameters: int = 0  # numbers in all weights of the layer
    alphabet: str = ""  # constructor call of the alphabet
    num_levels: int | None = None
    effective_bits: float | None = None  # log2(num_levels)
    storage: str = ""  # "int2", "int4", "int8": the TFLite type that holds the codes; "packed": only the packed format
    radius: float | None = None  # largest weight that the alphabet holds, mean over channels
    relative_error: float | None = None  # ||Z - Z~|| / ||Z - bias||, Z and Z~ outputs before the activation, both nets;
    # of an activation ||x - q|| / ||x||, q what rounding makes of x
    zeros: float | None = None  # fraction of weights that are zero
    target_zeros: float | None = None  # the fraction that a schedule of pruning ends with
    features: int | None = None  # N, inputs of one neuron
    rows: int | None = None  # m, rows that the statistics sum over
    form: str = ""  # "gram", "direct", or "" where no solver ran
    bias: str = ""  # "kept", "corrected", "centered"
    low: float | None = None  # least value of an activation's alphabet
    high: float | None = None  # largest value of an activation's alphabet
    scale: float | None = None  # one step of an activation
    zero_point: int | None = None  # code of zero of an activation
    clipped: float | None = None  # fraction of an activation's values beyond its alphabet
    mean_moved: float | None = None  # of a BatchNorm's moving mean, in new standard deviations, rms over channels
    variance_ratio: float | None = None  # new variance + epsilon over the old one's, geometric mean over channels
    scale_moved: float | None = None  # of a kernel's scales, relative to the old ones, rms over channels
    bytes: int | None = None  # of its codes in a file
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {field: value for field, value in dataclasses.asdict(self).items() if value not in (None, "")}


@dataclasses.dataclass
class Step:
    """One technique's part of a report."""

    technique: str  # "quantize", "fold_batch_normalization", ...
    settings: dict[str, Any]
    rows: list[LayerRow] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)  # seconds, samples, walks, ...

    def add(self, row: LayerRow) -> None:
        self.rows.append(row)

    def to_dict(self) -> dict[str, Any]:
        return {
            "technique": self.technique,
            "settings": self.settings,
            "figures": self.figures,
            "layers": [row.to_dict() for row in self.rows],
        }


COLUMNS = (
    ("layer", lambda row: row.path, str),
    ("type", lambda row: row.kind, str),
    ("done", lambda row: row.action, str),
    ("params", lambda row: row.parameters or None, "{:,}".format),
    ("levels", lambda row: row.num_levels, str),
    ("effective bits", lambda row: row.effective_bits, "{:.2f}".format),
    ("storage", lambda row: row.storage or None, str),
    ("radius", lambda row: row.radius, "{:.4g}".format),
    (
        "range",
        lambda row: None if row.low is None else (row.low, row.high),
        lambda ends: "{:.4g} .. {:.4g}".format(*ends),
    ),
    ("scale", lambda row: row.scale, "{:.4g}".format),
    ("zero", lambda row: row.zero_point, str),
    ("clipped", lambda row: row.clipped, "{:.2%}".format),
    ("error", lambda row: row.relative_error, "{:.2%}".format),
    ("target", lambda row: row.target_zeros, "{:.1%}".format),
    ("zeros", lambda row: row.zeros, "{:.1%}".format),
    ("form", lambda row: row.form or None, str),
    ("bias", lambda row: row.bias or None, str),
    ("mean moved", lambda row: row.mean_moved, "{:.3f}".format),
    ("variance", lambda row: row.variance_ratio, "x {:.3f}".format),
    ("scales moved", lambda row: row.scale_moved, "{:.2%}".format),
    ("bytes", lambda row: row.bytes, "{:,}".format),
    ("time", lambda row: row.seconds, "{:.2f} s".format),
)
TEXTS = ("layer", "type", "done", "storage", "form", "bias")  # columns that are set flush left


class Report:
    """All steps that led to a result, oldest first."""

    def __init__(self, steps: tuple[Step, ...] = ()):
        self.steps = tuple(steps)

    def extended(self, step: Step) -> "Report":
        """A new report with one more step; this one stays as it is."""
        return Report((*self.steps, step))

    def row(self, path: str) -> LayerRow:
        """The newest row of the layer at `path`.

        Raises:
            KeyError: no step names this layer.
        """
        for step in reversed(self.steps):
            for row in step.rows:
                if row.path == path:
                    return row
        known = ", ".join(dict.fromkeys(row.path for step in self.steps for row in step.rows))
        raise KeyError(f"{path!r} is no layer of this report. Its layers: {known or 'none'}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dictionaries, for JSON."""
        return {"steps": [step.to_dict() for step in self.steps]}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Report":
        return cls(
            tuple(
                Step(
                    step["technique"],
                    step["settings"],
                    [LayerRow(**row) for row in step["layers"]],
                    step["figures"],
                )
                for step in state["steps"]
            )
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.to_dict() == other.to_dict()

    def __str__(self) -> str:
        return "\n\n".join(_step_text(step) for step in self.steps) or "nothing was done"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return "\n".join(_step_html(step) for step in self.steps) or "<p>nothing was done</p>"

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame` with a row for each layer of each step; columns that all rows leave open are left out.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas  # optional
        except ImportError as error:
            raise InputError(
                "to_dataframe needs pandas. Install it: pip install keras_compress[dataframes]."
            ) from error
        rows = [
            {"step": number, "technique": step.technique, **dataclasses.asdict(row)}
            for number, step in enumerate(self.steps)
            for row in step.rows
        ]
        return pandas.DataFrame(rows).replace("", None).dropna(axis="columns", how="all")


def _heading(step: Step) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in step.settings.items())
    return f"{step.technique}({settings})"


def _table(step: Step) -> tuple[list[list[str]], list[int]]:
    """The cells of a step, with a row of headings first, and the columns that are set flush left."""
    used = [column for column in COLUMNS if any(column[1](row) is not None for row in step.rows)]
    cells = [[name for name, _, _ in used]]
    cells += [["" if get(row) is None else show(get(row)) for _, get, show in used] for row in step.rows]
    return cells, [place for place, (name, _, _) in enumerate(used) if name in TEXTS]


def _notes(step: Step) -> list[str]:
    """Why layers were left, and the step's figures."""
    reasons: dict[str, list[str]] = {}
    for layer in step.rows:
        if layer.reason:
            reasons.setdefault(layer.reason, []).append(layer.path)
    lines = [f"{', '.join(paths)}: {reason}" for reason, paths in reasons.items()]
    return lines + [f"{name}: {_figure_text(value)}" for name, value in step.figures.items()]


def _step_text(step: Step) -> str:
    return "\n".join([_heading(step), *aligned(*_table(step)), *_notes(step)])


def _step_html(step: Step) -> str:
    (head, *rows), left = _table(step)

    def line(cells: list[str], tag: str) -> str:
        sides = ["left" if place in left else "right" for place in range(len(cells))]
        parts = [
            f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    table = f"<table><thead>{line(head, 'th')}</thead><tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
    notes = "<br>".join(html.escape(note) for note in _notes(step))
    return f"<p><b>{html.escape(_heading(step))}</b></p>{table if rows else ''}<p>{notes}</p>"


def _figure_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
