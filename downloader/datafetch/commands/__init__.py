"""The commands, one module each: its arguments and help, and what it does with them.

Importing one costs nothing but argparse; whatever it needs to do its work it imports when it runs. `options` holds the
arguments that several share, `session` what a command sees of the process. A command returns its answer, whose exit
code is the process's, or raises a DataFetchError.
"""
