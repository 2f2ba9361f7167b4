"""Which strategy to take: all of them at 1 to 100 labels a class, on frozen self-supervised features."""
