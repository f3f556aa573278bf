"""The paper's experiments: every row of its Tables 2 to 5, on the real data.

python -m examples.paper --help
"""
