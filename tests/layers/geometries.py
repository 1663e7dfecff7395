"""Convolutions on which everything that knows their geometry is tried."""

# kernel size, strides, dilation, padding, groups; every pair of values that can meet is in some row
CONVOLUTIONS = [
    ((1, 1), (1, 1), (1, 1), "valid", 1),
    ((1, 1), (2, 2), (1, 1), "same", 2),
    ((3, 3), (1, 1), (1, 1), "same", 1),
    ((3, 3), (1, 1), (1, 1), "valid", 2),
    ((2, 2), (1, 1), (1, 1), "same", 1),
    ((4, 2), (1, 1), (1, 1), "same", 2),
    ((2, 4), (1, 1), (1, 1), "valid", 1),
    ((5, 3), (1, 1), (1, 1), "same", 1),
    ((3, 3), (2, 2), (1, 1), "same", 1),
    ((3, 3), (2, 2), (1, 1), "valid", 2),
    ((2, 2), (2, 2), (1, 1), "same", 4),
    ((4, 4), (3, 3), (1, 1), "same", 1),
    ((3, 2), (2, 1), (1, 1), "same", 2),
    ((2, 3), (3, 2), (1, 1), "valid", 1),
    ((3, 3), (1, 1), (2, 2), "same", 1),
    ((3, 3), (1, 1), (2, 2), "valid", 2),
    ((2, 2), (1, 1), (3, 2), "same", 4),
    ((3, 1), (1, 1), (2, 1), "same", 1),
]
