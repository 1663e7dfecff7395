"""Everything public that decides numbers, once: each entry passes all contracts, and no public class may be missing."""

import keras_compress as kc

QUANTIZERS = {
    "msq": kc.MSQ(3),
    "msq_corrected": kc.MSQ(3, bias_correction=True),
    "msq_ternary": kc.MSQ(alphabet=kc.Integer(levels=3)),
    "gpfq": kc.GPFQ(3),
    "gpfq_plain": kc.GPFQ(3, centered=False),
    "gpfq_corrected": kc.GPFQ(3, centered=False, bias_correction=True),
    "gpfq_2021": kc.GPFQ(alphabet=kc.Equispaced(levels=3, scalar=3), centered=False, patches="per_channel"),
    "gpfq_2023": kc.GPFQ(alphabet=kc.Midtread(3, scalar=1.16), centered=False),
    "gpfq_quantile": kc.GPFQ(2, radius=0.95),
    "gpfq_refined": kc.GPFQ(3, refine=2, order="descending_diagonal"),
    "gpfq_alternating": kc.GPFQ(3, radius="alternating", refine=2),
    "gpfq_searched": kc.GPFQ(2, radius="search"),
    "spfq": kc.SPFQ(4),
    "spfq_aligned": kc.SPFQ(4, alignment=3, centered=False),
    "sparse_gpfq": kc.SparseGPFQ(3, regularization=0.02),
    "sparse_gpfq_l0": kc.SparseGPFQ(3, regularizer="l0", regularization=0.02),
    "gpfq_asymmetric": kc.GPFQ(alphabet=kc.Integer(3, symmetric=False), refine=1),
    "optq": kc.OPTQ(3),
    "optq_corrected": kc.OPTQ(3, target="corrected", order="descending_diagonal", refine=1),
    "optq_through_additions": kc.OPTQ(3, target="corrected", compensate_skip=True),
    "qronos": kc.Qronos(3),
    "beacon": kc.Beacon(2),
}
ALPHABETS = {
    "integer": kc.Integer(3),
    "integer_ternary": kc.Integer(levels=3),
    "integer_wide": kc.Integer(2, narrow_range=False),
    "integer_per_layer": kc.Integer(5, per_channel=False, scalar=0.5),
    "integer_asymmetric": kc.Integer(3, symmetric=False),
    "integer_asymmetric_ternary": kc.Integer(levels=3, symmetric=False, per_channel=False),
    "integer_groups": kc.Integer(4, group_size=32),
    "integer_16": kc.Integer(16),
    "equispaced": kc.Equispaced(2, scalar=2.5),
    "equispaced_ternary": kc.Equispaced(levels=3),
    "equispaced_per_channel": kc.Equispaced(3, per_channel=True),
    "midtread": kc.Midtread(2),
    "midtread_ternary": kc.Midtread(1, scalar=2),
    "midtread_per_channel": kc.Midtread(4, per_channel=True),
}
