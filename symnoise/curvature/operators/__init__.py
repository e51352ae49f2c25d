"""The curvature matrices as linear operators: Hessian, Gauss-Newton, differences of gradients, dense."""
