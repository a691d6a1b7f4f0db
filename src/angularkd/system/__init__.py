"""This machine and this process, each tool in a module of its own, imported as such:

files      files that are there whole or not at all
memory     free memory, and what a command line may ask of the allocator
modes      training modes and random states, put back after use
devices    the device and the arithmetic that a run computes with
compiling  functions compiled for one shape
"""
