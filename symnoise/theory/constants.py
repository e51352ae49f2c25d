"""The numbers in the claims' formulas, so that a test can replace one by a wrong one and see a verdict flip.

Numbers that the library itself needs are in its modules: the laws' variances and kurtoses in `symnoise.noise.LAWS`,
M2's in `symnoise.noise.moments`, N2's in `symnoise.norms.closed_forms`, N3's in `symnoise.norms.radial`, V1's in
`symnoise.curvature.smoothing`.
"""

CALIBRATED = 1 / 3  # M1: E‖ε‖² = α²/3 of every calibrated law
SECOND = 1 / 2  # S1, P1: ½σ² tr H, ½εᵀHε
FOURTH = 1 / 24  # S1, S2: (σ⁴/24)[3 Σ_{i≠j} ℓ_iijj + κ Σ ℓ_iiii]
MIXED = 3  # S1: of Σ_{i≠j} ℓ_iijj
ORDER_OF_REST = 6  # S1: what the fourth order leaves, in σ
ORDER_OF_LAWS = 4  # S2: difference of two calibrated laws
RAW = 3  # S3: variance of a raw Gaussian over the calibrated one
ORDER_OF_RAW = 2  # S3
ORDER_OF_PAIR = 4  # P1: what ½εᵀHε leaves of a pair
ORDER_OF_DRAW = 3  # P1: … of a single draw
TWO_DRAWS = 1 / 2  # P2: variance of two draws over that of one
PAIR = 1 / 4  # P2: (σ⁴/4) Var(zᵀHz)
FROBENIUS = 2  # P3: Var(zᵀHz) = 2‖H‖_F² + (κ − 3) Σ H_ii²
GAUSSIAN_KURTOSIS = 3  # P3: the κ at which the diagonal adds nothing
LOGIT_DIFFERENCE = 1 / 8  # P4: ⅛Δᵀ∇²ℓΔ
GENERIC = 3  # L1: d Σw⁴/(Σw²)² of independent normal weights is 3d/(d + 2) in the mean
SHRINKAGE = 1 / 2  # R1: (1 + r²)^(−½)
