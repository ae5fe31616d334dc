"""Measurements: ratios against named rivals, in one run, with the machine they ran on."""
