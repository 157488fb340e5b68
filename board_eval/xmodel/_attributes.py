"""Attributes of compiled xmodels: every name has one type, wherever it occurs, and XIR reads no other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["ATTRIBUTE_TYPES", "set_attributes"]

#: Attribute -> the member of AttrValue that holds it in files of AMD's compiler 3.5.
ATTRIBUTE_TYPES: Mapping[str, str] = MappingProxyType(
    {
        name: kind
        for kind, names in {
            "bool_value": (
                "align_corners bias_term concat_skip_code_gen enable_mt_fusion fusion half_pixel_centers hd_opt if_prefetch "
                "if_signed inspector preassign prefetch profile reserve_const_data skip_code_gen"
            ),
            "int32_value": (
                "axis bit_width channel_augmentation ddr_addr fix_point group hsigmoid_in in_dim location out_dim reg_id "
                "shift_hsigmoid shift_hswish"
            ),
            "uint64_value": "dpu_fingerprint workload workload_on_arch",
            "string_value": "data_type debug_mode device dpu_name mode nonlinear pad_mode round_mode type",
            "bytes_value": "data mc_code mc_code_preload",
            "int32_vec": "dilation kernel pad shape stride",
            "float_vec": "scale",
            "string_vec": "aie_tile_fusion_type children_topological_sort",
            "map_string_2_int32": "reg_id_to_size",
            "map_string_2_string": (
                "files_md5sum libs_info reg_id_to_context_type reg_id_to_context_type_v2 reg_id_to_hw_segment runner"
            ),
            "map_string_2_bytes": "reg_id_to_parameter_value",
        }.items()
        for name in names.split()
    }
)


def set_attributes(target: Any, /, **attributes: Any) -> None:
    """Set attributes in a map of AttrValue messages, each with its type; raises KeyError for a name that has none."""
    for name, value in attributes.items():
        kind = ATTRIBUTE_TYPES[name]
        if kind in ("bool_value", "int32_value", "uint64_value", "string_value"):
            setattr(target[name], kind, value)
            continue
        wrapper = getattr(target[name], kind)
        wrapper.SetInParent()  # an empty list is there all the same
        if kind == "bytes_value":
            wrapper.value = value
        elif kind == "map_string_2_bytes":
            for key, content in value.items():
                wrapper.value[key].value = content
        elif kind.startswith("map"):
            wrapper.value.update(value)
        else:
            wrapper.value.extend(value)
