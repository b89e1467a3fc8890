"""Operators without arithmetic on numbers: factories, copies, selection by a given mask, predicates."""

from __future__ import annotations

from hograd_bench.metrics._formulas._work import Table, free

TABLE = Table()

TABLE.add(
    "empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like new_ones "
    "full full_like new_full eye arange scalar_tensor _efficientzerotensor zero fill copy clone contiguous _to_copy "
    "_unsafe_view _reshape_alias _local_scalar_dense lift_fresh lift lift_fresh_copy resolve_conj resolve_neg "
    "resize set_ _linalg_check_errors is_same_size _has_same_storage_numel _fw_primal _make_dual alias detach equal "
    "item "
    "cat stack select_backward slice_backward diagonal_backward constant_pad_nd select_scatter slice_scatter "
    "diagonal_scatter as_strided_scatter flip roll repeat tril triu diag_embed diag index index_select gather "
    "embedding take masked_select masked_fill where index_fill index_copy scatter masked_scatter _unsafe_index "
    "eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_not logical_xor all any bitwise_and "
    "bitwise_or bitwise_not bitwise_xor signbit nonzero heaviside tril_indices triu_indices one_hot "
    "view_copy expand_copy permute_copy t_copy transpose_copy max_pool2d_with_indices_backward nan_to_num "
    "im2col linspace _pin_memory "
    "promote_types _new_zeros_with_same_feature_meta convert_element_type "
    "squeeze_copy unsqueeze_copy value_selecting_reduction_backward repeat_interleave",
    free,
)
