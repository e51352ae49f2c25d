"""The measurements behind the claims: each check returns ledger rows and tables."""
