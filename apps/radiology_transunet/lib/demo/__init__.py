"""The synthetic cohort that the demo and the tests use."""
