"""The command line, installed as ``perturbify.cli``: one file a command."""
