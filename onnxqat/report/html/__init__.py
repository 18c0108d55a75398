"""One self-contained HTML page: everything that is known of a model, to look at and to hand on."""

from onnxqat.report.html.contents import Report, View
from onnxqat.report.html.page import render

__all__ = ["Report", "View", "render"]
