"""What the steps about neurons share: texts with a read position, the second-order lens on a model, real ablations."""
