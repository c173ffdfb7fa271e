"""The faults that the product survives, by the numbers that the list of faults in the reliability notes gives them.

Each test is the real daemon between real servers. Whatever the fault, the judges replay what natives did and what the
target saw: nothing that lives was removed, nothing is lost, nothing foreign was touched.
"""
