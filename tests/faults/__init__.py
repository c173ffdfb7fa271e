"""The faults that the product survives, numbered as in docs/safety.md.

Each test is the real daemon between real servers. Whatever the fault, the judges replay what natives did and what the
target saw: nothing that lives was removed, nothing is lost, nothing foreign was touched.
"""
