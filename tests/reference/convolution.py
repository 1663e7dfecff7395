"""What the neurons of a convolution see, pixel by pixel; imports nothing of keras_compress."""

import numpy as np


def patches(
    images: np.ndarray,
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: str,
    groups: int,
) -> np.ndarray:
    """(groups, images * output height * output width, kernel height * kernel width * channels / groups).

    The padding is TensorFlow's: "same" gives ceil(size / stride) outputs, and the odd zero comes after.
    """
    num_images, height, width, channels = images.shape
    starts = []
    for axis, size in enumerate((height, width)):
        reach = (kernel_size[axis] - 1) * dilation[axis] + 1
        if padding == "same":
            outputs = -(-size // strides[axis])
            before = max((outputs - 1) * strides[axis] + reach - size, 0) // 2
        else:
            outputs = len(range(0, size - reach + 1, strides[axis]))
            before = 0
        starts.append([index * strides[axis] - before for index in range(outputs)])
    per_group = channels // groups
    rows = []
    for group in range(groups):
        for image in range(num_images):
            for top in starts[0]:
                for left in starts[1]:
                    row = []
                    for tap_row in range(kernel_size[0]):
                        for tap_column in range(kernel_size[1]):
                            y, x = top + tap_row * dilation[0], left + tap_column * dilation[1]
                            inside = 0 <= y < height and 0 <= x < width
                            for channel in range(group * per_group, (group + 1) * per_group):
                                row.append(images[image, y, x, channel] if inside else 0.0)
                    rows.append(row)
    return np.array(rows).reshape(groups, -1, len(rows[0]))
