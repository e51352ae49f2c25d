"""From products with an operator, and random probes, to estimates with standard errors."""
