"""The commands, a file each: `angularkd NAME` and, where it makes sense in Python, a function of the same name and options.

A new command is a file here, a class of options in `angularkd.config`, and a row in `angularkd.cli.COMMANDS`. Modules are imported
as such, when their command is used, so that a command loads only what it needs.
"""
