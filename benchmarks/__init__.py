"""What gnomon's speed and memory claims are measured with, peers included: `python -m benchmarks`, or `make bench`."""
