"""Types, argument checks and numerics that every other part stands on."""
