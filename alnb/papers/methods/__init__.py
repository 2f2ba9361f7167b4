"""Methods that the experiments of one paper use and no other: strategies and nets, as those of `acquire`."""
