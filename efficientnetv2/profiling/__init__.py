"""What a network costs: parameters, multiply-adds, activations and size, in all and per part."""

from efficientnetv2.profiling.costs import LayerCost, layer_costs
from efficientnetv2.profiling.profile import Part, Profile, profile_built, profile_model
from efficientnetv2.profiling.tables import profile_record, profile_table
from hparams.published import Published, published_figures

__all__ = [
    "LayerCost",
    "Part",
    "Profile",
    "Published",
    "layer_costs",
    "profile_built",
    "profile_model",
    "profile_record",
    "profile_table",
    "published_figures",
]
