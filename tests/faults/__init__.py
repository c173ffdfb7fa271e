"""The faults that the product survives: by number, as the list of faults in the reliability notes of the design has them.

Each test is the real daemon between real servers. Whatever the fault, the judges replay what natives did and what the
target saw: nothing that lives was removed, nothing is lost, nothing foreign was touched.
"""
