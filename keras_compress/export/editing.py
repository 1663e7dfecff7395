"""Changes to a TFLite model: weights become codes and scales, operators learn to read them."""

import collections
from collections.abc import Collection
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.export.locating import BIAS, INPUTS, WEIGHTS, channel_axis, weighted_operators
from keras_compress.export.policy import Placement
from keras_compress.measurement import flatbuffer
from keras_compress.numerics.biases import bias_step

DYNAMIC_VERSION = {"FULLY_CONNECTED": 12, "CONV_2D": 5}  # of operators that read 4 or 2 bits
DEQUANTIZE_VERSION = 6
CONVERTED = 1e-5  # relative error of a scale that the converter has computed from a range in float32


class Editor:
    """One TFLite model that is being changed.

    Args:
        content: of a file.
    """

    def __init__(self, content: bytes):
        self.model = flatbuffer.parse(content)
        self.graph = self.model.subgraphs[0]
        self.weighted = weighted_operators(self.model)
        self._written: dict[Any, int] = {}  # what a tensor of codes holds -> the tensor
        self._named: set[int] = set()  # tensors that the editor has named
        self._floats: dict[int, int] = {}  # weights -> what DEQUANTIZE makes of them
        self._before: dict[int, list[Any]] = {}  # index of an operator -> operators to insert before it

    def place(
        self, index: int, kind: str, name: str, codes: np.ndarray, scale: np.ndarray, placement: Placement
    ) -> None:
        """Gives an operator its weights.

        Args:
            index: of the operator.
            kind: its name.
            name: of the tensor.
            codes: integers in the operator's layout.
            scale: (n_out,) float32, positive.
            placement: how they are stored and read.
        """
        operator = self.graph.operators[index]
        held = (channel_axis(kind), placement.storage_bits, codes.shape, codes.tobytes(), scale.tobytes())
        if held not in self._written:
            self._written[held] = self._new_tensor(operator.inputs[WEIGHTS], name)
            self._write(self._written[held], kind, codes, scale, placement)
        tensor = operator.inputs[WEIGHTS] = self._written[held]
        if placement.reads == "weight-only":
            operator.inputs[WEIGHTS] = self._dequantized(index, tensor)
        elif placement.reads == "dynamic":
            if placement.storage_bits < 8:
                self._set_version(operator, DYNAMIC_VERSION[kind])
            if kind == "FULLY_CONNECTED":
                operator.builtinOptions.asymmetricQuantizeInputs = True

    def reads_integers(self, index: int, kind: str) -> bool:
        """Whether an operator's activations are integers."""
        return bool(self._activations(index, kind).type == schema.TensorType.INT8)

    def input_scale(self, index: int, kind: str) -> float:
        """One step of an operator's activations."""
        return float(np.float32(self._activations(index, kind).quantization.scale[0]))

    def set_bias(self, index: int, kind: str, steps: np.ndarray, name: str) -> None:
        """Gives an operator that computes with integers its bias, in steps of the scales of its inputs and weights.

        One without a bias gets one only if it is to add something.
        """
        operator = self.graph.operators[index]
        old, where = self._bias(index, kind), BIAS.get(kind, 2)
        if old is None and not steps.any():
            return
        weights = self.graph.tensors[operator.inputs[WEIGHTS]]
        scale = bias_step(self.input_scale(index, kind), weights.quantization.scale).astype(np.float32)
        if old is None:
            self.graph.tensors.append(schema.TensorT(shape=[len(steps)], buffer=0, hasRank=True))
            old = len(self.graph.tensors) - 1
            operator.inputs = [*operator.inputs, *[-1] * (where + 1 - len(operator.inputs))]
        tensor = self._new_tensor(old, name)
        self._fill(tensor, schema.TensorType.INT32, steps.astype(np.int32).view(np.uint8))
        self._quantize(tensor, scale, 0)
        operator.inputs[where] = tensor

    def set_activations(self, alphabets: Collection[tuple[float, int]]) -> None:
        """Scales of computed tensors become those of `alphabets` (scale, zero point) that the converter has rounded."""
        for tensor in self.graph.tensors:
            if tensor.type != schema.TensorType.INT8 or flatbuffer.array_of(self.model, tensor) is not None:
                continue
            scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
            same = [each for each, zero in alphabets if zero == zero_point and abs(each / scale - 1) < CONVERTED]
            if same:
                tensor.quantization.scale = np.array([min(same, key=lambda each: abs(each - scale))], np.float32)

    def bias(self, index: int, kind: str) -> np.ndarray | None:
        """The constant bias of an operator, as floats."""
        numbers, tensor = self.bias_numbers(index, kind), self._bias(index, kind)
        return None if numbers is None else flatbuffer.dequantized(numbers, self.graph.tensors[tensor])

    def bias_numbers(self, index: int, kind: str) -> np.ndarray | None:
        """The same as the file holds it: integers in an operator of integers."""
        tensor = self._bias(index, kind)
        return None if tensor is None else flatbuffer.array_of(self.model, self.graph.tensors[tensor])

    def bias_step(self, index: int, kind: str) -> float:
        """The largest step of an operator's bias; 0 for one of floats."""
        tensor = self._bias(index, kind)
        quantization = None if tensor is None else self.graph.tensors[tensor].quantization
        return 0.0 if quantization is None or quantization.scale is None else float(np.max(quantization.scale))

    def shape(self, number: int) -> tuple[int, ...]:
        """Of a tensor."""
        shape = self.graph.tensors[number].shape
        return () if shape is None else tuple(map(int, shape))

    def floats(self, number: int) -> np.ndarray:
        """A constant tensor, times its scales if it has some."""
        tensor = self.graph.tensors[number]
        values = flatbuffer.array_of(self.model, tensor)
        assert values is not None
        return flatbuffer.dequantized(values, tensor)

    def finish(self, inputs: list[str], outputs: list[str]) -> bytes:
        """The file, with lasting names and a signature, and without what nothing reads any more."""
        self._insert()
        self._remove_barriers()
        self._open_reshapes()
        self._remove_unread()
        self._name(inputs, outputs)
        self._compact()
        self._distinguish()
        self._share_shapes()
        return flatbuffer.serialize(self.model)

    def _activations(self, index: int, kind: str) -> Any:
        return self.graph.tensors[self.graph.operators[index].inputs[INPUTS.get(kind, 0)]]

    def _bias(self, index: int, kind: str) -> int | None:
        """The tensor of an operator's bias, if it has one."""
        inputs, where = self.graph.operators[index].inputs, BIAS.get(kind, 2)
        return int(inputs[where]) if len(inputs) > where and inputs[where] >= 0 else None

    def _new_tensor(self, tensor: int, name: str) -> int:
        """A tensor of the shape of another one, with a buffer of its own."""
        old = self.graph.tensors[tensor]
        self.model.buffers.append(schema.BufferT())
        self.graph.tensors.append(
            schema.TensorT(
                shape=old.shape,
                type=old.type,
                buffer=len(self.model.buffers) - 1,
                name=name.encode(),
                shapeSignature=old.shapeSignature,
                hasRank=old.hasRank,
            )
        )
        self._named.add(len(self.graph.tensors) - 1)
        return len(self.graph.tensors) - 1

    def _write(self, tensor: int, kind: str, codes: np.ndarray, scale: np.ndarray, placement: Placement) -> None:
        self._fill(tensor, flatbuffer.INTEGERS[placement.storage_bits], flatbuffer.pack(codes, placement.storage_bits))
        self._quantize(tensor, scale, channel_axis(kind))

    def _fill(self, tensor: int, kind: int, content: np.ndarray) -> None:
        self.graph.tensors[tensor].type = kind
        self.model.buffers[self.graph.tensors[tensor].buffer].data = content

    def _quantize(self, tensor: int, scale: np.ndarray, axis: int) -> None:
        """Writes one scale and one zero point for each channel: runtimes read beyond the end of shorter arrays."""
        self.graph.tensors[tensor].quantization = schema.QuantizationParametersT(
            scale=scale, zeroPoint=np.zeros(len(scale), np.int64), quantizedDimension=axis
        )

    def _dequantized(self, index: int, weights: int) -> int:
        if weights not in self._floats:
            old = self.graph.tensors[weights]
            self.graph.tensors.append(
                schema.TensorT(
                    shape=old.shape,
                    type=schema.TensorType.FLOAT32,
                    buffer=0,
                    hasRank=old.hasRank,
                )
            )
            self._floats[weights] = len(self.graph.tensors) - 1
            operator = schema.OperatorT(
                opcodeIndex=self._opcode(schema.BuiltinOperator.DEQUANTIZE, DEQUANTIZE_VERSION),
                inputs=[weights],
                outputs=[self._floats[weights]],
                builtinOptionsType=schema.BuiltinOptions.DequantizeOptions,
                builtinOptions=schema.DequantizeOptionsT(),
            )
            self._before.setdefault(index, []).append(operator)
        return self._floats[weights]

    def _opcode(self, builtin: int, version: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if (flatbuffer.builtin_of(code), code.version) == (builtin, version):
                return index
        self.model.operatorCodes.append(
            schema.OperatorCodeT(deprecatedBuiltinCode=min(builtin, 127), version=version, builtinCode=builtin)
        )
        return len(self.model.operatorCodes) - 1

    def _set_version(self, operator: Any, version: int) -> None:
        code = self.model.operatorCodes[operator.opcodeIndex]
        operator.opcodeIndex = self._opcode(flatbuffer.builtin_of(code), max(version, code.version))

    def _insert(self) -> None:
        operators = []
        for index, operator in enumerate(self.graph.operators):
            operators += [*self._before.get(index, []), operator]
        self.graph.operators = operators
        self._before = {}

    def _remove_barriers(self) -> None:
        """Removes the operators MAXIMUM of a tensor and itself (`locating.Barrier`)."""
        origins: dict[int, int] = {}
        kept = []
        for operator in self.graph.operators:
            operator.inputs = [origins.get(tensor, tensor) for tensor in operator.inputs]
            same = len(operator.inputs) == 2 and operator.inputs[0] == operator.inputs[1]
            leaves = operator.outputs[0] in self.graph.outputs
            if same and not leaves and flatbuffer.operator_name(self.model, operator) == "MAXIMUM":
                origins[operator.outputs[0]] = operator.inputs[0]
            else:
                kept.append(operator)
        self.graph.operators = kept

    def _open_reshapes(self) -> None:
        """Sizes of which one is computed, that of the batch, become constants with -1 in its place.

        A reshape keeps the number of elements, so that -1 can mean no other size; three operators fewer each time.
        """
        makers = {tensor: operator for operator in self.graph.operators for tensor in operator.outputs}
        written: dict[tuple[int, ...], int] = {}
        for operator in self.graph.operators:
            if flatbuffer.operator_name(self.model, operator) != "RESHAPE" or len(operator.inputs) != 2:
                continue
            sizes = self._sizes(makers.get(operator.inputs[1]))
            if sizes.count(-1) != 1 or 0 in sizes:
                continue
            if sizes not in written:
                written[sizes] = self._new_tensor(operator.inputs[1], "shape")
                self._fill(written[sizes], schema.TensorType.INT32, np.array(sizes, np.int32).view(np.uint8))
            operator.inputs = [operator.inputs[0], written[sizes]]

    def _sizes(self, pack: Any) -> tuple[int, ...]:
        """What an operator PACK puts together, -1 for numbers that are computed; nothing for other operators."""
        if pack is None or flatbuffer.operator_name(self.model, pack) != "PACK":
            return ()
        values = [flatbuffer.array_of(self.model, self.graph.tensors[tensor]) for tensor in pack.inputs]
        return tuple(-1 if value is None else int(value.item()) for value in values)

    def _remove_unread(self) -> None:
        """Removes operators whose outputs nothing reads any more: floats of weights, sizes of the batch."""
        read = set(self.graph.outputs)
        kept = []
        for operator in reversed(self.graph.operators):
            if read.intersection(operator.outputs):
                read.update(operator.inputs)
                kept.append(operator)
        self.graph.operators = kept[::-1]

    def _name(self, inputs: list[str], outputs: list[str]) -> None:
        """Sets names that depend on the model alone, and not on what the process has built before."""
        for tensor in set(range(len(self.graph.tensors))) - self._named:
            self.graph.tensors[tensor].name = b"constant"
        for number, operator in enumerate(self.graph.operators):
            kind = flatbuffer.operator_name(self.model, operator).lower()
            for tensor in operator.outputs:
                if tensor not in self._named:
                    self.graph.tensors[tensor].name = f"{kind}_{number}".encode()
        maps: list[list[Any]] = []
        for names, tensors in ((inputs, self.graph.inputs), (outputs, self.graph.outputs)):
            maps.append([])
            for name, tensor in zip(names, tensors, strict=True):
                self.graph.tensors[tensor].name = name.encode()
                maps[-1].append(schema.TensorMapT(name=name.encode(), tensorIndex=tensor))
        self.model.signatureDefs = [
            schema.SignatureDefT(inputs=maps[0], outputs=maps[1], signatureKey=b"serving_default", subgraphIndex=0)
        ]
        self.model.description = b"keras_compress"

    def _distinguish(self) -> None:
        """Gives each tensor a name of its own: other tools go by names. Inputs and outputs keep theirs."""
        taken: set[bytes] = set()
        counts: collections.Counter[bytes] = collections.Counter()
        for tensor in dict.fromkeys([*self.graph.inputs, *self.graph.outputs, *range(len(self.graph.tensors))]):
            name = self.graph.tensors[tensor].name
            while self.graph.tensors[tensor].name in taken:
                counts[name] += 1
                self.graph.tensors[tensor].name = name + f"_{counts[name]}".encode()
            taken.add(self.graph.tensors[tensor].name)

    def _share_shapes(self) -> None:
        """Writes equal arrays once, and a signature only for a shape that is open."""
        for tensor in self.graph.tensors:
            if tensor.shapeSignature is not None and list(tensor.shapeSignature) == list(tensor.shape):
                tensor.shapeSignature = None
            for field in ("shape", "shapeSignature"):
                if getattr(tensor, field) is not None:
                    setattr(tensor, field, np.asarray(getattr(tensor, field), np.int32))

    def _compact(self) -> None:
        """Drops tensors that nothing reads, and buffers that no tensor has."""
        used = {*self.graph.inputs, *self.graph.outputs}
        for operator in self.graph.operators:
            used.update(operator.inputs, operator.outputs, operator.intermediates or [])
        kept = [tensor for tensor in range(len(self.graph.tensors)) if tensor in used]
        numbers = {old: new for new, old in enumerate(kept)} | {-1: -1}
        self.graph.tensors = [self.graph.tensors[tensor] for tensor in kept]
        for operator in self.graph.operators:
            for field in ("inputs", "outputs", "intermediates"):
                if getattr(operator, field) is not None:
                    setattr(operator, field, [numbers[tensor] for tensor in getattr(operator, field)])
        self.graph.inputs = [numbers[tensor] for tensor in self.graph.inputs]
        self.graph.outputs = [numbers[tensor] for tensor in self.graph.outputs]
        for signature in self.model.signatureDefs or []:
            for entry in [*signature.inputs, *signature.outputs]:
                entry.tensorIndex = numbers[entry.tensorIndex]
        self.model.metadata = [
            entry for entry in self.model.metadata or [] if entry.name == b"min_runtime_version"
        ]  # what else the converter writes tells how it was called
        tensors = [tensor for graph in self.model.subgraphs for tensor in graph.tensors]
        buffers = sorted({0, *(tensor.buffer for tensor in tensors), *(entry.buffer for entry in self.model.metadata)})
        places = {old: new for new, old in enumerate(buffers)}
        self.model.buffers = [self.model.buffers[buffer] for buffer in buffers]
        for entry in [*tensors, *self.model.metadata]:
            entry.buffer = places[entry.buffer]
        codes = sorted({operator.opcodeIndex for graph in self.model.subgraphs for operator in graph.operators})
        self.model.operatorCodes = [self.model.operatorCodes[code] for code in codes]
        for graph in self.model.subgraphs:
            for operator in graph.operators:
                operator.opcodeIndex = codes.index(operator.opcodeIndex)
