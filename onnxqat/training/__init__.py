"""Fine-tuning of a Q/DQ module against its FP32 teacher."""
