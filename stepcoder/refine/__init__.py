"""`python -m stepcoder.refine`: more out of a policy at inference, against plain resampling."""
