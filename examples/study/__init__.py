"""Does centralization help, when, and why: our own questions, answered with many seeds.

python -m examples.study --help
"""
