"""What a configuration may name: classes and functions that compute with tensors, and do nothing else.

Everything that is not in these tables is refused, also what later versions of Keras add: a class must be looked at
before it gets a row. None of these runs code of the file, opens a path, or imports a module.
"""

import re

from keras_compress.bridge.counterparts import LAYERS

MODELS = ("Functional", "Model", "Sequential")
ONLY_KERAS_3 = (
    "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D", "AdaptiveMaxPooling1D",
    "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D", "AugMix", "AutoContrast", "AvgPool1D", "AvgPool2D", "AvgPool3D",
    "Convolution1D", "Convolution1DTranspose", "Convolution2D", "Convolution2DTranspose", "Convolution3D",
    "Convolution3DTranspose", "CutMix", "Equalization", "GlobalAvgPool1D", "GlobalAvgPool2D", "GlobalAvgPool3D",
    "GlobalMaxPool1D", "GlobalMaxPool2D", "GlobalMaxPool3D", "GroupQueryAttention", "GroupedQueryAttention",
    "MaxPool1D", "MaxPool2D", "MaxPool3D", "MelSpectrogram", "MixUp", "Pipeline", "RMSNormalization", "RandAugment",
    "RandomColorDegeneration", "RandomColorJitter", "RandomCrop", "RandomElasticTransform", "RandomErasing",
    "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization",
    "RandomSaturation", "RandomSharpness", "RandomShear", "ReversibleEmbedding", "STFTSpectrogram",
    "SeparableConvolution1D", "SeparableConvolution2D", "Solarization", "SpectralNormalization",
)  # fmt: skip
# Layers of Keras 2 that have no counterpart: they are read, so that the message can name the layer.
ONLY_KERAS_2 = ("RandomHeight", "RandomWidth", "ThresholdedReLU")
FUNCTIONS_OF_TENSORFLOW = ("SlicingOpLambda", "TFOpLambda")  # each with a function that `operations` knows

# Operations of Keras 3 that make outputs of inputs. Those that call functions, or make tensors of any size of a few
# numbers or in a loop over an axis, are left out: Map, Scan, WhileLoop, Arange, Full, Unstack and others.
OPERATIONS = (
    "Abs", "Absolute", "Add", "All", "Amax", "Amin", "Any", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan",
    "Arctan2", "Arctanh", "Argmax", "Argmin", "Argsort", "Average", "AveragePool", "BatchNorm", "BroadcastTo",
    "Cast", "Ceil", "Celu", "Clip", "Concatenate", "Conv", "ConvTranspose", "Copy", "Cos", "Cosh", "CropImages",
    "Cross", "Cumprod", "Cumsum", "DepthToSpace", "DepthwiseConv", "Diff", "Divide", "DivideNoNan", "Dot",
    "DotProductAttention", "Einsum", "Elu", "Equal", "Erf", "Erfinv", "Exp", "Exp2", "ExpandDims", "Expm1",
    "ExtractPatches", "Fabs", "Flip", "Floor", "FloorDivide", "Fmax", "Fmin", "Fmod", "Gelu", "GetItem", "Glu",
    "Greater", "GreaterEqual", "HSVToRGB", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "Inner", "Isfinite",
    "Isinf", "Isnan", "LayerNorm", "LeakyRelu", "Less", "LessEqual", "Log", "Log10", "Log1p", "Log2", "LogSigmoid",
    "LogSoftmax", "Logaddexp", "LogicalAnd", "LogicalNot", "LogicalOr", "LogicalXor", "Logsumexp", "Matmul", "Max",
    "MaxPool", "Maximum", "Mean", "Median", "Min", "Minimum", "Mod", "Moments", "Moveaxis", "Multiply", "NanToNum",
    "Negative", "Norm", "Normalize", "NotEqual", "OneHot", "OnesLike", "Pad", "PadImages", "Power", "Prod",
    "RGBToGrayscale", "RGBToHSV", "RMSNorm", "Ravel", "Reciprocal", "Relu", "Relu6", "Repeat", "Reshape", "Resize",
    "Roll", "Rot90", "Round", "Rsqrt", "SaturateCast", "Selu", "SeparableConv", "Sigmoid", "Sign", "Silu", "Sin",
    "Sinh", "Slice", "SoftShrink", "Softmax", "Softplus", "Softsign", "Sort", "SpaceToDepth", "SparsePlus",
    "SparseSigmoid", "Sparsemax", "Split", "Sqrt", "Square", "Squareplus", "Squeeze", "Stack", "Std", "StopGradient",
    "Subtract", "Sum", "Swapaxes", "Take", "TakeAlongAxis", "Tan", "Tanh", "TanhShrink", "Tensordot", "Threshold",
    "Tile", "TopK", "Transpose", "Tril", "Triu", "TrueDivide", "Trunc", "Var", "Vstack", "Hstack", "Where",
    "ZerosLike",
)  # fmt: skip

# Not STFT: it makes its first value in NumPy, of any size, and no layer saves it.
INITIALIZERS = (
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "IdentityInitializer",
    "LecunNormal", "LecunUniform", "Ones", "Orthogonal", "OrthogonalInitializer", "RandomNormal", "RandomUniform",
    "TruncatedNormal", "VarianceScaling", "Zeros", "constant", "glorot_normal",
    "glorot_uniform", "he_normal", "he_uniform", "identity", "lecun_normal", "lecun_uniform", "normal", "one", "ones",
    "orthogonal", "random_normal", "random_uniform", "truncated_normal", "uniform", "variance_scaling", "zero",
    "zeros",
)  # fmt: skip
REGULARIZERS = ("L1", "L1L2", "L2", "OrthogonalRegularizer", "l1", "l1_l2", "l2", "orthogonal_regularizer")
CONSTRAINTS = (
    "MaxNorm", "MinMaxNorm", "NonNeg", "RadialConstraint", "UnitNorm", "max_norm", "min_max_norm", "non_neg",
    "radial_constraint", "unit_norm",
)  # fmt: skip
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
    "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax",
    "squareplus", "swish", "tanh", "tanh_shrink", "threshold",
)  # fmt: skip
# How a model was compiled: models within a model carry it with them.
LOSSES = (
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CTC", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "CategoricalHinge", "Circle", "CosineSimilarity", "Dice", "Hinge", "Huber", "KLDivergence", "LogCosh",
    "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError", "MeanSquaredLogarithmicError", "Poisson",
    "SparseCategoricalCrossentropy", "SquaredHinge", "Tversky", "binary_crossentropy", "binary_focal_crossentropy",
    "categorical_crossentropy", "categorical_focal_crossentropy", "categorical_hinge", "circle", "cosine_similarity",
    "ctc", "dice", "hinge", "huber", "kl_divergence", "log_cosh", "mae", "mape", "mean_absolute_error",
    "mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error", "mse", "msle", "poisson",
    "sparse_categorical_crossentropy", "squared_hinge", "tversky",
)  # fmt: skip
METRICS = (
    "AUC", "Accuracy", "BinaryAccuracy", "BinaryIoU", "CategoricalAccuracy", "F1Score", "FBetaScore", "FalseNegatives",
    "FalsePositives", "IoU", "LogCoshError", "Mean", "MeanIoU", "MeanMetricWrapper", "OneHotIoU", "OneHotMeanIoU",
    "Precision", "PrecisionAtRecall", "R2Score", "Recall", "RecallAtPrecision", "RootMeanSquaredError",
    "SensitivityAtSpecificity", "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy",
    "SpecificityAtSensitivity", "Sum", "TopKCategoricalAccuracy", "TrueNegatives", "TruePositives", "acc", "accuracy",
    "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy", "sparse_top_k_categorical_accuracy",
    "top_k_categorical_accuracy",
)  # fmt: skip
OPTIMIZERS = (
    "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "LossScaleOptimizer",
    "Muon", "Nadam", "RMSprop", "SGD", "CosineDecay", "CosineDecayRestarts", "ExponentialDecay", "InverseTimeDecay",
    "PiecewiseConstantDecay", "PolynomialDecay",
)  # fmt: skip
SMALL_OBJECTS = (
    "AbsMaxQuantizer", "DTypePolicy", "DTypePolicyMap", "Float8QuantizationConfig", "FloatDTypePolicy",
    "Int4DTypePolicy", "Int4QuantizationConfig", "Int8QuantizationConfig", "Policy", "PolicyV1", "QuantizedDTypePolicy",
    "QuantizedFloat8DTypePolicy", "RandomSeedGenerator", "SeedGenerator",
)  # fmt: skip
# Values that JSON does not have, as both libraries write them.
VALUES = (
    "TensorShape", "__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__",
)  # fmt: skip

FUNCTIONS = frozenset((*ACTIVATIONS, *LOSSES, *METRICS))
CLASSES = frozenset(
    (
        *MODELS, "InputLayer", *LAYERS, *ONLY_KERAS_3, *ONLY_KERAS_2, *FUNCTIONS_OF_TENSORFLOW, *OPERATIONS,
        *INITIALIZERS, *REGULARIZERS, *CONSTRAINTS, *LOSSES, *METRICS, *OPTIMIZERS, *SMALL_OBJECTS, *VALUES,
    )
)  # fmt: skip
# Settings that hold a function or an object by its name: the end of the setting -> what it may be.
NAMED = {
    "activation": frozenset((*ACTIVATIONS, "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")),
    "initializer": frozenset(INITIALIZERS),
    "regularizer": frozenset(REGULARIZERS),
    "constraint": frozenset(CONSTRAINTS),
}
# Settings after which a layer makes so many Python objects, or runs so many loops, as soon as it is made.
COUNTS = frozenset(
    (
        "chain_depth", "fft_length", "frame_length", "ngrams", "num_chains", "num_mel_bins", "num_oov_indices",
        "num_ops", "power_iterations", "sequence_length",
    )
)  # fmt: skip
LARGEST_COUNT = 65_536
DTYPES = frozenset(
    (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
        "float64", "bfloat16", "string", "complex64", "complex128",
    )
)  # fmt: skip
PATHS = re.compile(r"(^|_)(path|paths|file|files|filename|filepath|dir|directory|folder|url|uri|vocabulary)$")
MODULE = re.compile(
    r"(tf_)?keras(\.(src\.)?(activations|constraints|dtype_policies|engine|initializers|layers|losses|metrics|"
    r"mixed_precision|models|ops|optimizers|quantizers|random|regularizers)(\.[a-z0-9_]+)*)?"
)
