"""Which edges get Q/DQ, by TensorRT's rules."""
