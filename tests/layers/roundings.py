"""Ways to connect layers, each with what TFLite's converter rounds (tests/quantization/test_converter.py asks it)."""

import keras

L = keras.layers
BN = L.BatchNormalization


def conv(name, *, size=3, activation=None, **settings):
    return L.Conv2D(4, size, padding="same", activation=activation, name=name, **settings)


# One operation with one rounded output


def kernel_norm_relu(x):
    return L.ReLU(name="relu")(BN(name="norm")(conv("conv")(x)))


def depthwise_norm_relu6(x):
    return L.ReLU(6.0, name="relu")(BN()(L.DepthwiseConv2D(3, name="depthwise")(x)))


def transposed_norm_relu(x):
    return L.Activation("relu", name="relu")(BN()(L.Conv2DTranspose(3, 2, name="transposed")(x)))


def separable_norm(x):
    return BN(name="norm")(L.SeparableConv2D(3, 2, name="separable")(x))


def dense_norm_relu(x):
    return L.ReLU(4.0, name="relu")(BN()(L.Dense(3, name="dense")(L.Flatten()(x))))


def two_norms(x):
    return BN(name="second")(BN(name="first")(conv("conv")(x)))


def activation_within(x):
    return conv("second", activation="relu6")(conv("first", activation="relu")(x))


def dropout_between(x):
    return L.ReLU(name="relu")(L.Dropout(0.5)(BN()(L.SpatialDropout2D(0.5)(conv("conv")(x)))))


def sum_and_relu(x):
    return L.ReLU(name="relu")(L.Add(name="add")([conv("left")(x), conv("right")(x)]))


def operators(x):
    return keras.ops.relu(conv("left")(x) + conv("right")(x) * 0.5)


# Several


def norm_after_relu(x):
    return conv("second")(BN(name="norm")(conv("first", activation="relu")(x)))


def norm_first(x):
    return conv("conv")(L.ReLU(name="relu")(BN(name="norm")(x)))


def norm_with_two_readers(x):
    hidden = conv("conv")(x)
    return L.Add(name="add")([BN(name="norm")(hidden), hidden])


def relu_with_two_readers(x):
    hidden = BN(name="norm")(conv("conv")(x))
    return conv("second")(L.Add(name="add")([L.ReLU(name="relu")(hidden), hidden]))


def relu_of_relu(x):
    return L.ReLU(6.0, name="second")(L.ReLU(name="first")(conv("conv")(x)))


def relu_alone(x):
    return L.ReLU(name="relu")(x)


def relu_with_a_threshold(x):
    return L.ReLU(threshold=0.5, name="relu")(conv("conv")(x))


def leaky(x):
    return L.LeakyReLU(name="leaky")(conv("conv")(x))


def global_mean(x):
    return L.ReLU(name="relu")(L.GlobalAveragePooling2D(name="mean")(conv("conv")(x)))


def excitation(x):
    gate = conv("gate", size=1, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True, name="mean")(x))
    return L.Multiply(name="multiply")([x, gate])


# The alphabet of the inputs


def moved(x):
    hidden = L.MaxPooling2D(2)(conv("conv", activation="relu")(x))
    hidden = L.Cropping2D(1)(L.ZeroPadding2D(1)(L.UpSampling2D(2)(hidden)))
    return L.Dense(2, name="dense")(L.Reshape((-1, 4))(L.Permute((2, 1, 3))(hidden))[:, 1:])


def mean_pooling(x):
    return conv("second")(L.AveragePooling2D(2, name="pool")(conv("first", activation="relu")(x)))


def bilinear(x):
    return L.UpSampling2D(2, interpolation="bilinear", name="larger")(conv("conv")(x))


def max_pooling_and_relu(x):
    return L.ReLU(name="relu")(L.MaxPooling2D(2)(conv("conv")(x)))


def mean_pooling_and_relu(x):
    return L.ReLU(6.0, name="relu")(L.AveragePooling2D(2, name="pool")(conv("conv")(x)))


def flattened_relu(x):
    return L.ReLU(name="relu")(L.Flatten()(conv("conv")(x)))


def input_moved(x):
    return conv("conv")(L.MaxPooling2D(2)(x))


def joined(x):
    first, second = conv("first", activation="relu")(x), conv("second")(x)
    return L.Add(name="add")([conv("third")(L.Concatenate(name="join")([first, second])), conv("fourth")(first)])


def joined_with_pools(x):
    pooled = [L.MaxPooling2D(2)(conv("max")(x)), L.AveragePooling2D(2, name="mean_pool")(conv("mean")(x))]
    return L.Concatenate(name="join")(pooled)


def joined_twice(x):
    inner = L.Concatenate(name="inner")([conv("first")(x), conv("second")(x)])
    return L.Concatenate(name="join")([inner, conv("third")(x)])


def joined_relu(x):
    return L.ReLU(name="relu")(L.Concatenate(name="join")([conv("first")(x), conv("second")(x)]))


def maximum(x):
    return L.Maximum(name="largest")([conv("first", activation="relu")(x), conv("second")(x)])


def joined_with_a_sigmoid(x):
    return L.Concatenate(name="join")([conv("first", activation="sigmoid")(x), conv("second")(x)])


def joined_sigmoids(x):
    parts = [conv(name, activation="sigmoid")(x) for name in ("first", "second")]
    return L.Concatenate(name="join")(parts)


# Functions with an alphabet of their own


def classifier(x):
    return L.Dense(3, "softmax", name="predictions")(L.Flatten()(x))


def softmax_layer(x):
    return L.Softmax(name="softmax")(L.Dense(3, name="logits")(L.Flatten()(x)))


def functions(x):
    hidden = conv("one", activation="tanh")(x)
    hidden = L.Activation("sigmoid", name="sigmoid")(L.Flatten()(hidden))
    return L.Dense(3, "log_softmax", name="two")(L.Dropout(0.5)(hidden))


def moved_function(x):
    return L.AveragePooling2D(2, name="pool")(L.MaxPooling2D(2)(conv("conv", activation="sigmoid")(x)))


def other_functions(x):
    hidden = conv("one", activation="silu")(x)
    return L.Conv2D(3, 1, activation=lambda tensor: -tensor, name="two")(hidden)


def a_layer_as_activation(x):
    return L.Conv2D(3, 1, activation=L.LeakyReLU(), name="conv")(x)


# Groups of tensors with the same alphabet; "by" names what tells their range, where it is not all of them.
EXPECTED = {
    kernel_norm_relu: ["image", "relu"],
    depthwise_norm_relu6: ["image", "relu"],
    transposed_norm_relu: ["image", "relu"],
    separable_norm: ["image", "norm", "separable_depthwise"],
    dense_norm_relu: ["image", "relu"],
    two_norms: ["image", "second"],
    activation_within: ["image", "first", "second"],
    dropout_between: ["image", "relu"],
    sum_and_relu: ["image", "left", "right", "relu"],
    norm_after_relu: ["image", "first", "norm", "second"],
    norm_first: ["image", "relu", "conv"],
    norm_with_two_readers: ["image", "conv", "norm", "add"],
    relu_with_two_readers: ["image", "norm", "relu", "add", "second"],
    relu_of_relu: ["image", "first", "second"],
    relu_alone: ["image", "relu"],
    relu_with_a_threshold: ["image", "conv", "relu"],
    leaky: ["image", "conv", "leaky"],
    global_mean: ["image", "conv", "mean", "relu"],
    excitation: ["image", "mean", "gate", "gate_sigmoid 0..1", "multiply"],
    moved: ["image", "conv", "dense"],
    mean_pooling: ["image", "first pool by first", "second"],
    bilinear: ["image", "conv larger by conv"],
    max_pooling_and_relu: ["image", "conv relu by conv"],
    mean_pooling_and_relu: ["image", "conv relu by conv"],
    flattened_relu: ["image", "conv", "relu"],
    input_moved: ["image", "conv"],
    joined: ["image", "first second by join", "third", "fourth", "add"],
    joined_with_pools: ["image", "max mean mean_pool by join"],
    joined_twice: ["image", "first second third by inner join"],
    joined_relu: ["image", "first second by join", "relu"],
    maximum: ["image", "first second by largest"],
    joined_with_a_sigmoid: ["image", "first", "first_sigmoid 0..1", "join second by join"],
    joined_sigmoids: ["image", "first", "first_sigmoid 0..1", "second", "second_sigmoid 0..1", "join"],
    classifier: ["image", "predictions", "predictions_softmax 0..1"],
    softmax_layer: ["image", "logits", "softmax 0..1"],
    functions: ["image", "one", "one_tanh -1..1", "sigmoid 0..1", "two", "two_log_softmax -16..0"],
    moved_function: ["image", "conv", "conv_sigmoid pool 0..1"],
    other_functions: ["image", "one", "one_silu/sigmoid 0..1", "one_silu/product", "two", "two_activation"],
    a_layer_as_activation: ["image", "conv"],
}
