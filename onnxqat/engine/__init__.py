"""TensorRT and Polygraphy; nothing else in the package imports them."""
