"""Mixed precision by budget: which nodes stay in float, or in more bits, so that enough is kept."""

from onnxqat.mixing.config import MixConfig
from onnxqat.mixing.mix import mix

__all__ = ["MixConfig", "mix"]
