"""AMD explained on one image: its maps, its values and the gradients of its parts, as numbers and as a figure."""

from angularkd.explanation.figure import check_figures, draw_explanation
from angularkd.explanation.maps import PARTINGS, Explanation, explain_image

__all__ = ["PARTINGS", "Explanation", "check_figures", "draw_explanation", "explain_image"]
