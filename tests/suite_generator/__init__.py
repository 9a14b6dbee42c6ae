"""Makes the embedded suite from families of problems; for development, not part of the wheel."""
