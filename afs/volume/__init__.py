"""The volume package.

What a fileserver and a volserver keep on a partition, and the rules of every change to it.
"""
