"""Fuzzing: what happens to a user who opens one of thousands of corrupt or malicious files?"""
