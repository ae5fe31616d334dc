"""Networks for the tests, importable by name wherever a copy of one is unpickled."""
