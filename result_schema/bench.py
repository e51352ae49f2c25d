"""The rows of peers.csv that are symnoise's own; all others are its peers'."""

OWN = TAYLOR, TAYLOR_BFLOAT16, TWO_LEVELS, PRODUCTS = (
    "symnoise, Taylor",
    "symnoise, Taylor, bfloat16 coefficients",
    "symnoise, two levels",
    "symnoise, Hessian products",
)
