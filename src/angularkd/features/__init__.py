"""What a network gives beside its logits: traces of a dry forward, stages and their pairing, features and attention maps.

ATTENTIONS is the table of attention mechanisms: a new one is a class and a row in `attention.py`.
"""

from angularkd.features.attention import (
    ATTENTIONS,
    ClassToken,
    GradCAM,
    MaxMap,
    PowerMap,
    TokenNorm,
    mechanism,
)
from angularkd.features.attention_maps import LEAST_SQUARE, match_sizes, normalise, to_map, widen
from angularkd.features.class_maps import with_class_maps
from angularkd.features.extractor import FeatureExtractor, ModelOutput
from angularkd.features.feature_maps import Stage
from angularkd.features.outputs import heads_of
from angularkd.features.pairing import Pair, pair_models
from angularkd.features.pre_activation import PreActivation
from angularkd.features.stages import embedding_of, find_stages, head_of, stages_at
from angularkd.features.tracing import Head, Trace, trace

__all__ = [
    "ATTENTIONS",
    "LEAST_SQUARE",
    "ClassToken",
    "FeatureExtractor",
    "GradCAM",
    "Head",
    "MaxMap",
    "ModelOutput",
    "Pair",
    "PowerMap",
    "PreActivation",
    "Stage",
    "TokenNorm",
    "Trace",
    "embedding_of",
    "find_stages",
    "head_of",
    "heads_of",
    "match_sizes",
    "mechanism",
    "normalise",
    "pair_models",
    "stages_at",
    "to_map",
    "trace",
    "widen",
    "with_class_maps",
]
