"""Benchmarks: what the bridge costs beside a raw loop over the same servers, in the same run."""
