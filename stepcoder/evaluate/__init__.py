"""`python -m stepcoder.evaluate`: pass@k of a policy or of sample files on a problem set."""
