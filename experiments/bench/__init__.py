"""Speed and memory of curvature and of training with noise."""
