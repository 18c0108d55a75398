"""Errors that a user can act on: the problem, where it is, and the fix."""

from __future__ import annotations


class OnnxqatError(Exception):
    """A problem with the user's input, told with its place and its fix.

    Every error that the package raises on purpose is one of these, so that the command line can
    print it without a traceback and end with exit code 2.
    """

    def __init__(
        self,
        problem: str,
        *,
        node: str | None = None,
        tensor: str | None = None,
        at: str | None = None,
        fix: str | None = None,
    ) -> None:
        """Keep the parts apart; `str()` joins them.

        Args:
            problem: One sentence that names the thing that is wrong.
            node: Name of the ONNX node where it is wrong.
            tensor: Name of the ONNX tensor where it is wrong.
            at: Any other place: a file, a batch, a line of the recipe.
            fix: What the user can do about it.
        """
        self.problem = problem
        self.node = node
        self.tensor = tensor
        self.at = at
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        places = [
            f"node '{self.node}'" if self.node is not None else None,
            f"tensor '{self.tensor}'" if self.tensor is not None else None,
            self.at,
        ]
        where = ", ".join(place for place in places if place)
        lines = [self.problem]
        if where:
            lines.append(f"  at:  {where}")
        if self.fix is not None:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class ModelError(OnnxqatError):
    """The ONNX file or graph cannot be used."""


class DataError(OnnxqatError):
    """The data does not fit the model: a name, shape, dtype or value."""


class ConfigError(OnnxqatError):
    """A recipe, flag or argument is wrong."""


class UnsupportedOpError(ModelError):
    """The bridge has no torch implementation for an ONNX operator version."""


class PlacementError(OnnxqatError):
    """Rules disagree about an edge, or a plan does not fit the graph."""


class TrainingError(OnnxqatError):
    """Fine-tuning cannot go on: a loss that is not finite, nothing to train."""


class BuildError(OnnxqatError):
    """The TensorRT compiler is missing, or refuses the model."""
