"""From raw problems to verified ones: the construction of APPS+, as a pipeline."""
