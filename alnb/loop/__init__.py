"""The loop: experiment, cycles, oracle."""
