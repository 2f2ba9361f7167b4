"""A loan of a machine for minutes: images travel there as small files, records and weights come back as parcels.

`images` cuts CIFAR-10 into two parts, `parcels` packs and unpacks what runs leave, `weights` makes torch files small, `work` uses the
minutes. ``python -m benchmarks.loan --help`` lists the commands; benchmarks/README.md shows two runs back to back.
"""
